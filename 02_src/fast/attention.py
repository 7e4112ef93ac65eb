"""Attention of short packed rows on a CPU: whole score matrices, grouped heads, one autograd node.

torch's CPU kernel works through blocks and copies each key for every query head; for rows of a
few hundred tokens three matrix products forward and four backward take a third of its time. Scores
and softmax are computed in fp32. Everything else goes to transformers' own sdpa function.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_sdpa"
LONGEST_ROW = 512  # the probabilities of every layer are kept for the backward


def use_dense_attention(model: torch.nn.Module) -> None:
    """Let a model on the CPU whose attention is sdpa attend with this module."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config.get_text_config()._attn_implementation = NAME


def undo_dense_attention(model: torch.nn.Module) -> None:
    """Back to sdpa."""
    model.config.get_text_config()._attn_implementation = "sdpa"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; query [R, H, S, d] -> [R, S, H, d]."""
    special = [options.get(name) for name in ("softcap", "position_bias", "s_aux", "cache")]
    if (
        dropout
        or not is_short_row(query, key, attention_mask)
        or any(option is not None for option in special)
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return DenseAttention.apply(query, key, value, attention_mask, scale).transpose(1, 2), None


def is_short_row(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether the mask is a boolean one over a whole short row."""
    return (
        mask is not None
        and mask.dtype == torch.bool
        and query.device.type == "cpu"
        and query.shape[2] == key.shape[2] <= LONGEST_ROW
        and mask.shape == (query.shape[0], 1, query.shape[2], key.shape[2])
    )


class DenseAttention(torch.autograd.Function):
    """softmax(scale q k' where the mask is True) v."""

    @staticmethod
    def forward(ctx, query, key, value, mask, scale):
        """query [R, H, S, d], key and value [R, G, S, d] with H a multiple of G."""
        rows, heads, length, _ = query.shape
        groups = key.shape[1]
        q = query.reshape(rows * groups, -1, query.shape[-1])  # [RG, H/G S, d]
        k, v = (x.reshape(rows * groups, length, -1) for x in (key, value))
        scores = torch.bmm(q.float(), k.float().transpose(1, 2)).mul_(scale)
        by_row = scores.view(rows, -1, length, length)  # [R, H, S, S]
        # Not -inf: generation pads on the left, and a query that sees nothing would become NaN.
        by_row.masked_fill_(~mask, torch.finfo(scores.dtype).min)
        probs = torch.softmax(scores, -1).to(query.dtype)
        ctx.save_for_backward(q, k, v, probs)
        ctx.scale, ctx.query_shape, ctx.key_shape = scale, query.shape, key.shape
        ctx.value_shape = value.shape
        return torch.bmm(probs, v).view(rows, heads, length, -1)

    @staticmethod
    def backward(ctx, grad):
        """grad [R, H, S, d] -> gradients of query, key and value."""
        q, k, v, probs = ctx.saved_tensors
        grad = grad.reshape(q.shape[0], q.shape[1], -1)
        grad_v = torch.bmm(probs.transpose(1, 2), grad)
        grad_probs = torch.bmm(grad, v.transpose(1, 2)).float()
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_probs, probs.float(), -1, torch.float32
        )
        grad_scores = grad_scores.mul_(ctx.scale).to(q.dtype)
        grad_q = torch.bmm(grad_scores, k).view(ctx.query_shape)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).view(ctx.key_shape)
        return grad_q, grad_k, grad_v.view(ctx.value_shape), None, None
