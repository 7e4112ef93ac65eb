"""Peak of one micro-step beyond the weights, by following what the forward keeps.

The forward of fast/ keeps, for each token and layer: the input of both norms, their outputs (input
of the linears), queries, keys and values as the attention kernel takes them, its output, gate, up
and their product; and, without the kernels of fast.tree_attention, for each row and layer the
additive mask. With checkpointing only a layer's input is kept, and one layer at a time is computed
again.
"""

from dataclasses import dataclass

from fast.rehearsal import DIVERGING_AT_ONCE
from fast.tree_attention import WIDEST_FP32
from memory.shape import ModelShape

VOCABULARY_TILE = 32768  # fast.head
TOKEN_TILE = 4096  # trl.kernels.chunked_logprob
FP32 = 4


@dataclass(frozen=True)
class MicroStep:
    """The shape of one micro-step: rows of `width` tokens, `count` predicted tokens."""

    rows: int
    width: int
    count: int
    recited: int = 0  # tokens whose distributions are compared with the reference's

    @property
    def tokens(self) -> int:
        """Places in the grid, padding included."""
        return self.rows * self.width


@dataclass(frozen=True)
class Setting:
    """What the activations depend on besides shapes."""

    item: int = 2  # bytes of a number in the compute dtype
    rank: int = 16
    four_bit: bool = True
    checkpointing: bool = False
    kernels: bool = True  # Triton: gated product and head tiles are folded in one kernel
    kept: bool = False  # 4-bit weights are held in 16 bit, too (fast.frozen_weights)
    trees: bool = True  # attention over token trees, where model and kernels allow it


def has_trees(shape: ModelShape, how: Setting) -> bool:
    """Whether attention reads the tree and no mask (fast.tree_attention)."""
    narrow = how.item < FP32 or shape.head_width <= WIDEST_FP32
    return how.trees and how.kernels and shape.trees and narrow


def size_layer(shape: ModelShape, step: MicroStep, how: Setting) -> dict[str, float]:
    """Bytes one layer keeps for its backward without checkpointing."""
    per_token = how.item * step.tokens
    norm = shape.hidden if shape.plain else 3 * shape.hidden * FP32 / how.item
    trees = has_trees(shape, how)
    copied = shape.query > shape.key and not trees  # keys and values, for each query head
    attention = 2 * shape.query + 2 * (shape.query if copied else shape.key)
    if shape.head_norms:
        attention += shape.query + shape.key
    gated = 3 if how.kernels and shape.plain else 4
    adapted = sum(linear.adapted for linear in shape.linears) / shape.layers
    return {
        "norms": shape.norms_per_layer * (per_token * (norm + shape.hidden) + FP32 * step.tokens),
        "attention": per_token * attention + FP32 * shape.heads * step.tokens,
        "mlp": per_token * gated * shape.intermediate,
        "lora": how.rank * (per_token * adapted + (how.item * 5 * shape.hidden if trees else 0)),
        "mask": 0.0 if trees else how.item * step.rows * step.width**2,
    }


def size_head(shape: ModelShape, step: MicroStep, how: Setting) -> tuple[float, float]:
    """(forward, backward) bytes of the output head beyond its input."""
    tile = min(step.count, TOKEN_TILE) * VOCABULARY_TILE
    folded = tile * how.item if how.kernels else tile * (how.item + 5 * FP32)
    compared = min(step.recited * shape.vocabulary, DIVERGING_AT_ONCE) * (3 * FP32 + how.item)
    slopes = how.item * step.recited * shape.hidden  # kept, and the reference's states
    forward = max(folded, compared) + 2 * slopes + 8 * FP32 * (step.count + step.recited)
    return forward, forward + step.count * shape.hidden * (how.item + FP32)


def size_dequantised(shape: ModelShape, how: Setting) -> float:
    """Bytes of the largest linear's weights while they are used in full."""
    if not how.four_bit or how.kept:
        return 0.0
    return shape.largest_linear * how.item * (1 + FP32 / 64 / how.item)


def measure_training(shape: ModelShape, step: MicroStep, how: Setting) -> dict[str, float]:
    """Bytes at the peak of one micro-step's forward and backward, by what they hold.

    The peak is in the last layer's backward, at the gated product (its gradient and those of gate
    and up beside everything kept), or in the head's backward where the vocabulary is wide.
    """
    one = sum(size_layer(shape, step, how).values())
    stream = how.item * step.tokens * shape.hidden
    wide = how.item * step.tokens * shape.intermediate
    hidden = how.item * (step.count + step.recited) * shape.hidden  # input of the head
    angles = 2 * how.item * step.tokens * shape.head_width
    head_forward, head_backward = size_head(shape, step, how)
    dequantised = size_dequantised(shape, how)
    if how.checkpointing:
        mask = 0 if has_trees(shape, how) else step.rows * step.width**2  # boolean
        layers = shape.layers * stream + mask
        recomputed = one - stream
    else:
        layers = shape.layers * one - stream  # the first layer's input needs no gradient
        recomputed = 0.0
    kept = layers + angles
    in_head = {"head": stream + hidden + max(head_forward, head_backward)}
    stacked = dequantised * (2 if how.kernels and shape.plain else 1)  # of gate and up
    in_layer = {
        "recomputed layer": recomputed,
        "backward": stream + max(2 * wide, wide + dequantised, stacked - wide),
    }
    return {"activations": kept, **max(in_head, in_layer, key=lambda x: sum(x.values()))}


def measure_scoring(shape: ModelShape, step: MicroStep, how: Setting) -> dict[str, float]:
    """Bytes at the peak of a forward without gradients: reference pass and validation."""
    stream = how.item * step.tokens * shape.hidden
    wide = how.item * step.tokens * shape.intermediate
    square = 0 if has_trees(shape, how) else step.rows * step.width**2
    mask, building = (how.item + 1) * square, 5 * square
    stacked = size_dequantised(shape, how) * (2 if how.kernels and shape.plain else 1)
    forward = 2 * stream + 2 * wide + max(wide, stacked)
    head = size_head(shape, step, how)[0] + stream + how.item * step.count * shape.hidden
    return {"mask": mask, "forward": max(forward, head, building)}
