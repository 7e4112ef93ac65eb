"""Attention of packed rows on a GPU: projections, rotation and attention over the token tree.

The models' own attention projects queries, keys and values one by one, rotates them in a dozen
elementwise passes, copies keys and values for every head that shares them, and reads a mask of a
number for every two tokens. Here the three projections are one (fast.lora_stack), rotated where
they lie, and attended by kernels that know the tree from one number a token (fast.tree_kernels).
Everything but packed rows goes to the model's own forward.
"""

import functools
import inspect
from collections.abc import Callable

import torch

from fast.fused_layers import find_kernels
from fast.layout import build_attention_mask
from fast.lora_stack import project

BLOCK = 64  # as fast.tree_kernels, which not every machine can import
GPU = "cuda"  # where the kernels run
HEAD_WIDTHS = (16, 32, 64, 128)
WIDEST_FP32 = 64
MODEL_TYPES = (
    "llama",
    "mistral",
    "qwen2",
    "granite",
    "olmo",
    "starcoder2",
)  # test_tree.py has them
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling", "config")
ARGUMENTS = ("hidden_states", "position_embeddings", "attention_mask")
UNKNOWN_HERE = (
    "sliding_window", "attn_logit_softcapping", "clip_qkv", "attention_dropout", "residual_dropout",
)  # fmt: skip
# Largest relative differences from the model's own attention, of output and gradient. Random inputs
# make sharp softmaxes, which amplify 16-bit rounding: SmolLM2's layers differ by up to 0.016 and
# 0.11, and by 0.5 and 0.9 or more where the rotation is another one.
CLOSE, CLOSE_FP32 = (0.1, 0.5), (1e-4, 1e-4)
OFF = (
    "attention over token trees is off: its kernels differ from the model's own here, or do not run"
)


def fuse_attention(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Give the attention layers a forward over trees; the changed, none unless all can have it.

    `model.attends_trees` says whether they have: then packed rows take make_tree_mask's masks.
    """
    layers = find_layers(model) if model.device.type == GPU and find_kernels() else []
    if model.dtype == torch.float32:  # wide ones take a minute to compile
        layers = [] if any(layer.head_dim > WIDEST_FP32 for layer in layers) else layers
    tried = (*layers[:1], *layers[-1:])  # of one kind, and all run again beside TRL's forward
    model.attends_trees = bool(layers) and all(computes_alike(layer, model) for layer in tried)
    if layers and not model.attends_trees:
        print(OFF)
    if not model.attends_trees:
        return []
    for layer in layers:
        layer.forward = functools.partial(attend_tree, layer, layer.forward)
    return layers


def find_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Every attention layer; none where one is of another kind than the kernels compute."""
    config = model.config.get_text_config()
    layers = [module for module in model.modules() if looks_plain(module)]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    known = config.model_type in MODEL_TYPES and kinds == {"full_attention"}
    return layers if known and len(layers) == config.num_hidden_layers else []


def looks_plain(module: torch.nn.Module) -> bool:
    """Whether the module has the parts of grouped-query attention with rotary positions, alone."""
    if not type(module).__name__.endswith("Attention"):
        return False
    takes = inspect.signature(module.forward).parameters
    return (
        all(hasattr(module, name) for name in PARTS)
        and all(name in takes for name in ARGUMENTS)
        and module.head_dim in HEAD_WIDTHS
        and not any(hasattr(module, name) for name in ("q_norm", "k_norm", "sinks"))
        and not any(
            getattr(module, name, None) or getattr(module.config, name, None)
            for name in UNKNOWN_HERE
        )
    )


def computes_alike(layer: torch.nn.Module, model: torch.nn.Module) -> bool:
    """Whether the layer's own forward and gradient agree on a small tree; names prove nothing.

    A kernel that does not run on this card (an old one's shared memory may be too small for wide
    heads) raises one of Triton's many errors: then the answer is no, too.
    """
    try:
        found, wanted = (probe(layer, model, trees) for trees in (True, False))
    except Exception:
        return False
    limits = CLOSE_FP32 if model.dtype == torch.float32 else CLOSE
    return all(
        ((a - b).float().norm() <= limit * b.float().norm()).item()
        for a, b, limit in zip(found, wanted, limits, strict=True)
    )


def probe(
    layer: torch.nn.Module, model: torch.nn.Module, trees: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, gradient of the input) of a layer on two small trees, by the kernels or its own."""
    draw, width = torch.Generator().manual_seed(0), layer.q_proj.in_features
    x = torch.randn(2, 80, width, generator=draw).to(model.device, model.dtype).requires_grad_()
    slope = torch.randn(2, 80, layer.o_proj.out_features, generator=draw).to(x)
    ends = torch.full((2, 80), 80, device=x.device)
    ends[:, 20:50], ends[:, 78:] = 50, 0
    positions = torch.arange(80, device=x.device).expand(2, -1).clone()
    positions[:, 50:] -= 30
    rotation = model.base_model.rotary_emb(x, position_ids=positions)
    if rotation[0].shape[-1] != layer.head_dim:
        raise ValueError("a part of each head is rotated")  # the kernel would read beyond it
    forward = functools.partial(attend_tree, layer, None) if trees else layer
    mask = make_tree_mask(ends) if trees else build_attention_mask(ends)
    out = forward(hidden_states=x, position_embeddings=rotation, attention_mask=mask)[0]
    return out, torch.autograd.grad(out, x, slope)[0]


def list_projections(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """What makes queries, keys and values."""
    return [layer.q_proj, layer.k_proj, layer.v_proj]


def make_tree_mask(ends: torch.Tensor) -> torch.Tensor:
    """[R, 1, 2, S] int32 from ends [R, S]: each place's end, and the last end in its block.

    Four dimensions, since transformers hands such a mask on as it is.
    """
    rows, size = ends.shape
    padded = torch.nn.functional.pad(ends, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    last = padded.amax(-1, keepdim=True).expand(-1, -1, BLOCK).reshape(rows, -1)[:, :size]
    return torch.stack([ends, last], 1)[:, None].int()


def is_tree_mask(mask: torch.Tensor | None) -> bool:
    """Whether it was made by make_tree_mask."""
    return mask is not None and mask.dtype == torch.int32


def attend_tree(
    module: torch.nn.Module,
    stock_forward: Callable,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(output [R, S, hidden], None); the layer's own forward where there is no tree."""
    if not is_tree_mask(attention_mask):
        return stock_forward(
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            **kwargs,
        )
    qkv = project(list_projections(module), hidden_states).unflatten(-1, (-1, module.head_dim))
    heads = qkv.shape[2] - 2 * (module.k_proj.out_features // module.head_dim)
    cos, sin = position_embeddings
    out = TreeAttention.apply(qkv, attention_mask, cos, sin, heads, module.scaling)
    return module.o_proj(out.flatten(2)), None


class TreeAttention(torch.autograd.Function):
    """Rotation and attention; what it rotates in place is nobody else's."""

    @staticmethod
    def forward(ctx, qkv, mask, cos, sin, heads, scale):
        """qkv [R, S, H + 2G, d], angles [R, S, d] -> [R, S, H, d]."""
        (kernels, rotation), qkv = load_kernels(), qkv.contiguous()
        rows, size, all_heads, head = qkv.shape
        cos, sin = (angle.expand(rows, -1, -1).contiguous() for angle in (cos, sin))
        rotation.launch_rotation(qkv, (all_heads + heads) // 2, cos, sin, back=False)
        out = qkv.new_empty(rows, size, heads, head)
        lse = qkv.new_empty(rows, heads, size, dtype=torch.float32)
        kernels.launch_forward(qkv, mask, out, lse, scale)
        ctx.save_for_backward(qkv, mask, out, lse, cos, sin)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        """grad [R, S, H, d] -> the gradient of qkv."""
        qkv, mask, out, lse, cos, sin = ctx.saved_tensors
        (kernels, rotation), found = load_kernels(), torch.empty_like(qkv)
        kernels.launch_backward(qkv, mask, out, lse, grad.contiguous(), found, ctx.scale)
        rotated = (qkv.shape[2] + out.shape[2]) // 2
        rotation.launch_rotation(found, rotated, cos, sin, back=True)
        return found, *[None] * 5


def load_kernels() -> tuple:
    """The modules of attention and rotation, where Triton is installed."""
    from fast import rotation_kernels, tree_kernels

    return tree_kernels, rotation_kernels
