"""Output head on completion positions: log-probs, metrics, and their gradient at once.

The gradient of log p(target) by a hidden state, W[target] - softmax(z) W, does not depend on the
loss. It is computed while the logits are there, and the backward only scales it: logits are
neither kept nor computed again. TRL's own head computes them twice and, without Triton, multiplies
in fp32. With Triton TRL's is used: its kernels make fewer passes over the logits than torch can.
"""

import torch
from torch.nn import functional as F
from transformers.utils import is_triton_available
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from fast.rehearsal import DIVERGING_AT_ONCE

CPU = "cpu"
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
VOCABULARY_TILE = 32768
LOGITS_AT_ONCE = 1 << 24  # 64 MB in fp32


def score_hidden(model: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor):
    """[4, N] fp32 OUTPUTS of hidden [N, H] and targets [N]; gradients flow to `hidden` only."""
    head = model.get_output_embeddings()
    softcap, scale = read_logit_transform(model.config.get_text_config())
    if is_triton_available() and hidden.device.type == "cuda":
        log_probs, entropy, _, mean_logits, is_top1 = ChunkedLogProbFunction.apply(
            hidden, head.weight, head.bias, targets, 1.0, VOCABULARY_TILE, softcap, scale, OUTPUTS
        )
        return torch.stack([log_probs, entropy, mean_logits, is_top1.float()])
    weight, bias = read_head(model, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        log_probs, rest = ScoredHead.apply(
            hidden.to(weight.dtype), weight, bias, targets, softcap, scale
        )
    return torch.cat([log_probs[None], rest])


def measure_divergence(model: torch.nn.Module, hidden: torch.Tensor, states: torch.Tensor):
    """[M] fp32 KL(reference || policy) of the next token, over the whole vocabulary.

    Args:
        hidden, states: [M, H] last hidden states of policy and reference; gradients flow to
            `hidden` only.
    """
    weight, bias = read_head(model, hidden)
    transform = read_logit_transform(model.config.get_text_config())
    with torch.autocast(hidden.device.type, enabled=False):
        policy, reference = hidden.to(weight.dtype), states.to(weight.dtype)
        return Divergence.apply(policy, reference, weight, bias, *transform)


def read_head(
    model: torch.nn.Module, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The output head's weight and bias in the dtype that autocast gives hidden states."""
    head, kind, dtype = model.get_output_embeddings(), hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)


class Scratch:
    """Memory for logits, kept from call to call on a CPU.

    There, glibc returns pieces of this size when they are freed, and the page faults of fresh ones
    take as long as the arithmetic that fills them. On a GPU torch keeps them itself.
    """

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def take(self, name: str, rows: int, width: int, like: torch.Tensor, dtype: torch.dtype):
        """[rows, width] of anything, on the device of `like`; the last one of this name is lost."""
        if like.device.type != CPU:
            return like.new_empty(rows, width, dtype=dtype)
        kept = self.kept.get(name)
        if kept is None or kept.dtype != dtype or kept.numel() < rows * width:
            self.kept[name] = kept = torch.empty(rows * width, dtype=dtype)
        return kept[: rows * width].view(rows, width)

    def multiply(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None):
        """hidden [n, H] times weight [V, H], plus bias: [n, V] in fp32."""
        size, full = (len(hidden), len(weight)), weight.dtype == torch.float32
        product = self.take("logits" if full else "product", *size, weight, weight.dtype)
        if bias is None:
            torch.mm(hidden, weight.t(), out=product)
        else:
            torch.addmm(bias, hidden, weight.t(), out=product)
        return product if full else self.take("logits", *size, weight, torch.float32).copy_(product)

    def multiply_back(self, grad: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        """out [n, H] = grad [n, V] times weight, in weight's dtype."""
        if grad.dtype != weight.dtype:
            grad = self.take("product", *grad.shape, weight, weight.dtype).copy_(grad)
        torch.mm(grad, weight, out=out)


SCRATCH = Scratch()


class ScoredHead(torch.autograd.Function):
    """Log-probs [N], and [3, N] of what has no gradient; weight and bias are frozen."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, softcap, scale):
        """hidden [N, H] and weight [V, H] of one dtype."""
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        found = []
        step = max(1, LOGITS_AT_ONCE // weight.shape[0])
        for start in range(0, hidden.shape[0], step):
            part = slice(start, start + step)
            logits = SCRATCH.multiply(hidden[part], weight, bias)  # [n, V]
            stats, probs, capped = measure_logits(logits, targets[part], softcap, scale)
            found.append(stats)
            if slope is not None:
                grad = differentiate(probs, targets[part], capped, softcap, scale)
                SCRATCH.multiply_back(grad, weight, slope[part])
        ctx.save_for_backward(slope)
        log_probs, *rest = torch.cat(found, 1)
        rest = torch.stack(rest)
        ctx.mark_non_differentiable(rest)
        return log_probs, rest

    @staticmethod
    def backward(ctx, grad_log_probs, _):
        """grad_log_probs [N] -> gradient of hidden."""
        (slope,) = ctx.saved_tensors
        return (slope * grad_log_probs[:, None]).to(slope.dtype), *[None] * 5


class Divergence(torch.autograd.Function):
    """KL(reference || policy) [M]; its slope by the logits is policy - reference."""

    @staticmethod
    def forward(ctx, hidden, states, weight, bias, softcap, scale):
        """hidden and states [M, H], weight [V, H], all of one dtype."""
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        found = []
        step = max(1, DIVERGING_AT_ONCE // weight.shape[0])
        for start in range(0, hidden.shape[0], step):
            part = slice(start, start + step)
            logits = transform_logits(F.linear(hidden[part], weight, bias).float(), softcap, scale)
            other = transform_logits(F.linear(states[part], weight, bias).float(), softcap, scale)
            capped = None if softcap is None else logits.clone()
            torch.log_softmax(logits, -1, out=logits)
            torch.log_softmax(other, -1, out=other)
            probs = other.exp()
            found.append(other.sub_(logits).mul_(probs).sum(-1))
            if slope is not None:
                grad = undo_transform(logits.exp_().sub_(probs), capped, softcap, scale)
                torch.mm(grad.to(weight.dtype), weight, out=slope[part])
        ctx.save_for_backward(slope)
        return torch.cat(found)

    @staticmethod
    def backward(ctx, grad_divergence):
        """grad_divergence [M] -> gradient of hidden."""
        (slope,) = ctx.saved_tensors
        return (slope * grad_divergence[:, None]).to(slope.dtype), *[None] * 5


def transform_logits(logits: torch.Tensor, softcap: float | None, scale: float) -> torch.Tensor:
    """Scaled and capped, in place, as the model does it."""
    if scale != 1.0:
        logits.mul_(scale)
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def undo_transform(
    grad: torch.Tensor, capped: torch.Tensor | None, softcap: float | None, scale: float
) -> torch.Tensor:
    """A slope by transformed logits as one by those before; overwrites its arguments."""
    if capped is not None:
        grad.mul_(capped.div_(softcap).square_().neg_().add_(1))
    return grad if scale == 1.0 else grad.mul_(scale)


def measure_logits(
    logits: torch.Tensor, targets: torch.Tensor, softcap: float | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(OUTPUTS [4, n], probabilities [n, V], capped logits where there is a cap)."""
    transform_logits(logits, softcap, scale)
    probs = SCRATCH.take("probs", *logits.shape, logits, logits.dtype)
    torch.softmax(logits, -1, out=probs)
    top = logits.argmax(-1, keepdim=True)
    log_z = (logits.gather(1, top) - probs.gather(1, top).log()).squeeze(1)
    expected = torch.bmm(probs[:, None, :], logits[:, :, None]).flatten()
    log_probs = logits.gather(1, targets[:, None]).squeeze(1) - log_z
    is_top = (top.squeeze(1) == targets).float()
    stats = torch.stack([log_probs, log_z - expected, logits.mean(-1), is_top])
    return stats, probs, None if softcap is None else logits


def differentiate(
    probs: torch.Tensor,
    targets: torch.Tensor,
    capped: torch.Tensor | None,
    softcap: float | None,
    scale: float,
) -> torch.Tensor:
    """d log p(target) / d logit before cap and scale, [n, V]; overwrites its arguments."""
    grad = probs.neg_()
    grad.scatter_add_(1, targets[:, None], torch.ones_like(targets, dtype=grad.dtype)[:, None])
    return undo_transform(grad, capped, softcap, scale)


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
