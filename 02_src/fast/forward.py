"""The model's forward over packed pairs, scattered back to what TRL's loss expects."""

import functools

import torch
from trl.trainer.utils import FusedCausalLMOutput

from attention_plans import without_cudnn_plans
from fast import attention
from fast.buckets import Packed
from fast.graph_recorder import GraphRecorder
from fast.graphs import GraphedScorer
from fast.head import OUTPUTS, measure_divergence, score_hidden
from fast.layout import build_attention_mask
from fast.tree_attention import make_tree_mask

PACKED = ("ids", "positions", "ends", "sources", "lessons", "targets", "places")


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why this model cannot run packed rows exactly, or None when it can."""
    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", attention.NAME):
        return f"attention is {config._attn_implementation}, packed rows need sdpa"
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types - {"full_attention", "sliding_attention"}:
        return f"layer types {sorted(layer_types)} keep state along the row"
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        return "mixture-of-experts losses count padded tokens"
    return None


def install_packed_forward(model: torch.nn.Module, graphs: bool = False) -> "PackedScorer":
    """Let `model.forward` take over from TRL's fused head when a batch has packed tensors.

    `model` is the causal LM that TRL's add_fused_lm_head patched; without packed tensors its
    forward runs unchanged.

    Args:
        graphs: replay CUDA graphs in training, where the model is on a CUDA device.
    """
    stock = model.forward
    scorer = PackedScorer(model, graphs)

    @functools.wraps(stock)
    def forward(*args, **kwargs):
        packed = {name: kwargs.pop(f"packed_{name}", None) for name in PACKED}
        if packed["ids"] is None:
            return stock(*args, **kwargs)
        found, recited = scorer(packed), packed["lessons"].shape[0]
        scorer.divergence = found[0, :recited].mean() if recited else None
        return spread_results(found[:, recited:], packed["places"], kwargs["labels"])

    model.forward = forward
    return scorer


class PackedScorer:
    """Per-token results of a packed batch, by graph replay where that is possible."""

    def __init__(self, model: torch.nn.Module, graphs: bool) -> None:
        self.model = model
        self.graphs = graphs and model.device.type == "cuda"
        self.graphed: GraphedScorer | None = None
        self.states: torch.Tensor | None = None  # [T, H] the reference's, of all blocks' tokens
        self.divergence: torch.Tensor | None = None  # mean KL of the last batch's blocks

    def __call__(self, packed: Packed) -> torch.Tensor:
        """[4, M + N] (see score_packed) on the device of `packed`, which may be the host."""
        found = None
        if self.graphs and self.model.training and torch.is_grad_enabled():
            found = self.replay(packed)
        if found is None:
            on_device = {name: tensor.to(self.model.device) for name, tensor in packed.items()}
            found = score_packed(self.model, on_device, self.states).to(packed["ids"].device)
        return found

    def replay(self, packed: Packed) -> torch.Tensor | None:
        """The results from a graph; None where this batch runs eagerly."""
        if self.graphed is None:
            autocast = torch.is_autocast_enabled("cuda")
            dtype = torch.get_autocast_dtype("cuda") if autocast else self.model.dtype
            score = functools.partial(score_packed, self.model, states=self.states)
            self.graphed = GraphedScorer(self.model, score, dtype, GraphRecorder())
        return self.graphed(packed)


def score_packed(
    model: torch.nn.Module, packed: Packed, states: torch.Tensor | None = None
) -> torch.Tensor:
    """[4, M + N] fp32: log-prob, entropy, mean logit and "is the argmax" of completion tokens.

    The first M, of the rehearsed tokens, hold KL(reference || policy) and zeros instead.

    Args:
        model: causal LM with base_model, an output head, and TRL's logit transforms.
        packed: tensors of fast.layout.pack_pairs, on the model's device.
        states: [T, H] the reference's hidden states that packed["lessons"] [M] points to.
    """
    with without_cudnn_plans():
        hidden = run_backbone(model, packed)  # [R, S, H]
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, packed["sources"])  # [M + N, H]
    recited = packed["lessons"].shape[0]
    found = score_hidden(model, hidden[recited:], packed["targets"])
    if not recited:
        return found
    taught = states.index_select(0, packed["lessons"])
    divergence = measure_divergence(model, hidden[:recited], taught)
    nothing = found.new_zeros(len(OUTPUTS) - 1, recited)
    return torch.cat([torch.cat([divergence[None], nothing]), found], 1)


def spread_results(
    found: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
) -> FusedCausalLMOutput:
    """[4, N] results in TRL's [2B, L - 1] layout; labels [2B, L] are -100 outside completions."""
    shape = (labels.shape[0], labels.shape[1] - 1)
    mask = labels[:, 1:] != -100
    spread = found.new_zeros(len(OUTPUTS), shape[0] * shape[1]).index_copy(1, places, found)
    log_probs, entropy, mean_logits, is_top1 = spread.view(len(OUTPUTS), *shape)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy,
        mean_logits=mean_logits,
        is_top1=is_top1 > 0,
        label_mask=mask,
    )


def run_backbone(model: torch.nn.Module, packed: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states [R, S, H] of the packed rows."""
    if getattr(model, "attends_trees", False):
        masks = make_tree_mask(packed["ends"])
    else:
        masks = choose_masks(model.config.get_text_config(), packed)
    return model.base_model(
        input_ids=packed["ids"],
        attention_mask=masks,
        position_ids=packed["positions"],
        use_cache=False,
    ).last_hidden_state


def choose_masks(config, packed: dict[str, torch.Tensor]) -> torch.Tensor | dict:
    """The mask, or a mask per layer type for models with sliding windows.

    A window is a difference of positions within the pair, not of places in the row.
    """
    full = build_attention_mask(packed["ends"])
    kinds = set(getattr(config, "layer_types", None) or [])
    everywhere = not kinds and getattr(config, "sliding_window", None)  # as Mistral has it
    if not everywhere and "sliding_attention" not in kinds:
        return full
    positions = packed["positions"]
    distance = positions[:, None, :, None] - positions[:, None, None, :]
    window = full & (distance < config.sliding_window)
    if everywhere:
        return window
    return {"full_attention": full, "sliding_attention": window}
