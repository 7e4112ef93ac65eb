"""The model's forward over packed pairs, scattered back to what TRL's loss expects."""

import functools
from collections.abc import Callable

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import FusedCausalLMOutput

from fast.layout import build_attention_mask

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
VOCABULARY_TILE = 32768
PACKED = ("ids", "positions", "segments", "sources", "targets", "places")


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why this model cannot run packed rows exactly, or None when it can."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"attention is {config._attn_implementation}, packed rows need sdpa"
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types - {"full_attention", "sliding_attention"}:
        return f"layer types {sorted(layer_types)} keep state along the row"
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        return "mixture-of-experts losses count padded tokens"
    return None


def install_packed_forward(model: torch.nn.Module) -> None:
    """Let `model.forward` take over from TRL's fused head when a batch has packed tensors.

    `model` is the causal LM that TRL's add_fused_lm_head patched; without packed tensors its
    forward runs unchanged. Safe to call twice.
    """
    if hasattr(model.forward, "stock_forward"):
        return
    stock = model.forward

    @functools.wraps(stock)
    def forward(*args, **kwargs):
        packed = {name: kwargs.pop(f"packed_{name}", None) for name in PACKED}
        if packed["ids"] is None:
            return stock(*args, **kwargs)
        return score_packed(model, packed, kwargs["labels"])

    forward.stock_forward = stock
    model.forward = forward


def score_packed(
    model: torch.nn.Module, packed: dict[str, torch.Tensor], labels: torch.Tensor
) -> FusedCausalLMOutput:
    """Per-token results of a packed batch in TRL's [2B, L - 1] layout.

    Args:
        model: causal LM with base_model, an output head, and TRL's logit transforms.
        packed: tensors of fast.layout.pack_pairs.
        labels: [2B, L] padded labels, -100 outside completions.
    """
    hidden = run_backbone(model, packed)  # [R, S, H]
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, packed["sources"])  # [N, H]
    head = model.get_output_embeddings()
    softcap, scale = read_logit_transform(model.config.get_text_config())
    log_probs, entropy, _, mean_logits, is_top1 = ChunkedLogProbFunction.apply(
        hidden, head.weight, head.bias, packed["targets"], 1.0, VOCABULARY_TILE, softcap, scale,
        OUTPUTS,
    )  # fmt: skip
    shape = (labels.shape[0], labels.shape[1] - 1)
    mask = labels[:, 1:] != -100
    place = functools.partial(scatter_back, places=packed["places"], shape=shape)
    log_probs = place(log_probs)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=place(entropy),
        mean_logits=place(mean_logits),
        is_top1=place(is_top1),
        label_mask=mask,
    )


def run_backbone(model: torch.nn.Module, packed: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states [R, S, H] of the packed rows."""
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
    full = build_attention_mask(packed["segments"])
    if "sliding_attention" not in set(getattr(config, "layer_types", None) or []):
        return full
    positions = packed["positions"]
    distance = positions[:, None, :, None] - positions[:, None, None, :]
    window = full & (distance < config.sliding_window)
    return {"full_attention": full, "sliding_attention": window}


def read_logit_transform(config) -> tuple[float | None, float]:
    """(final soft cap, logit scale), found where TRL's add_fused_lm_head finds them."""
    softcap = getattr(config, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale is not None:
            return softcap, scale
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return softcap, 1.0
    return softcap, scaling if config.model_type == "hyperclovax" else 1 / scaling


def scatter_back(
    values: torch.Tensor, places: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """[N] values at `places` of a zero tensor of `shape`; differentiable in `values`."""
    flat = values.new_zeros(shape[0] * shape[1])
    return flat.index_put((places,), values).view(shape)


def measure_difference(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], run: Callable
) -> float:
    """Mean absolute difference per completion token between packed and stock log-probs."""
    keys = {name: value for name, value in batch.items() if not name.startswith("packed_")}
    with torch.no_grad():
        fast, stock = run(batch), run(keys)
    mask = batch["completion_mask"][:, 1:].bool()
    return (fast - stock)[mask].abs().mean().item()
