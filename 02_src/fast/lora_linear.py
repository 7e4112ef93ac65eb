"""LoRA on frozen linear layers as one autograd node: y = x W' + s x A' B'.

PEFT's forward clones, scales and adds whole activations around the two small matmuls. Here the
adapter's product is scaled and accumulated by the matmul itself, forward and backward, which
removes seven passes over every linear layer's output and more than half of a step's kernel
launches. Layers that share their input may be one node (fast.lora_stack). W may be a bitsandbytes
4-bit weight (fast.frozen_weights).
"""

import functools
from collections.abc import Sequence

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer

from fast.frozen_weights import multiply_frozen, read_stacked


def fuse_lora_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Give every plain LoRA layer, and 4-bit layers without LoRA, a fused forward; the changed.

    Layers with dropout, DoRA and other variants, LoRA biases or several adapters keep PEFT's
    forward, and so does a fused layer while its adapter is off or merged.
    """
    layers = [module for module in model.modules() if is_plain(module)]
    for layer in layers:
        layer.forward = functools.partial(forward_fused, layer, layer.forward)
    wrapped = {m.get_base_layer() for m in model.modules() if isinstance(m, LoraLayer)}
    bare = [m for m in model.modules() if type(m) is Linear4bit and m not in wrapped]
    for layer in bare:
        layer.forward = functools.partial(forward_frozen, layer)
    return layers + bare


def is_fused(layer: torch.nn.Module) -> bool:
    """Whether fuse_lora_layers gave a LoRA layer its forward."""
    found = getattr(layer.forward, "func", None)
    return found is forward_fused


def is_plain(module: torch.nn.Module) -> bool:
    """Whether the module computes exactly W x + s B A x, and is not fused yet."""
    if not isinstance(module, LoraLayer) or isinstance(module.forward, functools.partial):
        return False
    names = list(module.lora_A)
    base = module.get_base_layer()
    return (
        len(names) == 1
        and module.active_adapters == names
        and type(base) in (torch.nn.Linear, Linear4bit)
        and isinstance(module.lora_dropout[names[0]], torch.nn.Identity)
        and not module.lora_variant
        and not module.lora_bias[names[0]]
    )


def forward_fused(layer: LoraLayer, stock_forward, x: torch.Tensor, *args, **kwargs):
    """`layer`'s output [..., out] for x [..., in]; PEFT's own forward for anything unusual."""
    if layer.merged or args or kwargs:
        return stock_forward(x, *args, **kwargs)
    if layer.disable_adapters and torch.is_grad_enabled():
        return stock_forward(x)
    return run_layers([layer], x)


def forward_frozen(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output [..., out] of a frozen 4-bit layer without LoRA, for x [..., in]."""
    dtype = choose_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return FrozenLinear.apply(x.to(dtype), layer.weight, layer.bias)


def run_layers(layers: Sequence[LoraLayer], x: torch.Tensor) -> torch.Tensor:
    """[..., sum of out]: the outputs of fused layers, one behind the other, for x [..., in].

    Their adapters are all on, or all off and nothing is differentiated.
    """
    dtype, bases = choose_dtype(x), [layer.get_base_layer() for layer in layers]
    weights, biases = tuple(b.weight for b in bases), tuple(b.bias for b in bases)
    with torch.autocast(x.device.type, enabled=False):
        if layers[0].disable_adapters:
            y = multiply_frozen(x.to(dtype).reshape(-1, x.shape[-1]), weights, biases)
            return y.view(*x.shape[:-1], -1)
        names = [layer.active_adapters[0] for layer in layers]
        chosen = list(zip(layers, names, strict=True))
        matrices = [m for layer, n in chosen for m in (layer.lora_A[n], layer.lora_B[n])]
        adapters = [matrix.weight.to(dtype) for matrix in matrices]
        scales = tuple(layer.scaling[name] for layer, name in chosen)
        if torch.is_grad_enabled():
            return LoraLinear.apply(x.to(dtype), weights, biases, scales, *adapters)
        rows = x.to(dtype).reshape(-1, x.shape[-1])
        y, _ = multiply(rows, weights, biases, scales, join(adapters[::2]), adapters[1::2])
        return y.view(*x.shape[:-1], -1)


def choose_dtype(x: torch.Tensor) -> torch.dtype:
    """What a linear layer computes in: autocast's dtype, or x's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class LoraLinear(torch.autograd.Function):
    """Gradients for x and every A and B; base weights and biases are frozen."""

    @staticmethod
    def forward(ctx, x, weights, biases, scales, *adapters):
        """x [..., in], n weights [out, in] or in 4 bit, a [r, in] and b [out, r] of each in turn.

        Returns [..., sum of out].
        """
        rows = x.reshape(-1, x.shape[-1])  # [M, in]
        a, b = join(adapters[::2]), adapters[1::2]
        y, low = multiply(rows, weights, biases, scales, a, b)
        ctx.save_for_backward(rows, low, a, *b)
        ctx.weights, ctx.scales, ctx.shape = weights, scales, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        """grad [..., sum of out] -> gradients of x and of every a and b."""
        rows, low, a, *b = ctx.saved_tensors
        outs, ranks = [len(m) for m in b], [m.shape[1] for m in b]
        grad = grad.reshape(-1, grad.shape[-1])  # [M, sum of out]
        grad_low = torch.empty_like(low)
        grads_b = []
        for part, small, into, m, scale in zip(
            grad.split(outs, 1), low.split(ranks, 1), grad_low.split(ranks, 1), b, ctx.scales,
            strict=True,
        ):  # fmt: skip
            torch.addmm(into, part, m, beta=0, alpha=scale, out=into)
            grads_b.append(multiply_scaled(part.t(), small, scale))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ read_stacked(ctx.weights, grad.dtype)).addmm_(grad_low, a)
            grad_x = grad_x.view(ctx.shape)
        grads_a = (grad_low.t() @ rows).split(ranks)
        adapters = [m for pair in zip(grads_a, grads_b, strict=True) for m in pair]
        return grad_x, None, None, None, *adapters


class FrozenLinear(torch.autograd.Function):
    """The gradient for x alone; nothing of x is kept."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        """x [..., in], weight [out, in] in 4 bit -> [..., out]."""
        ctx.weight, ctx.shape = weight, x.shape
        y = multiply_frozen(x.reshape(-1, x.shape[-1]), (weight,), (bias,))
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        """grad [..., out] -> gradient of x."""
        rows = grad.reshape(-1, grad.shape[-1])
        return (rows @ read_stacked((ctx.weight,), grad.dtype)).view(ctx.shape), None, None


def multiply(
    rows: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    scales: Sequence[float],
    a: torch.Tensor,
    b: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs [M, sum of out], rows a' [M, sum of r]) for rows [M, in]; a has all adapters'."""
    low = rows @ a.t()
    y = multiply_frozen(rows, weights, biases)
    outs, ranks = [len(m) for m in b], [m.shape[1] for m in b]
    for part, small, m, scale in zip(y.split(outs, 1), low.split(ranks, 1), b, scales, strict=True):
        part.addmm_(small, m.t(), alpha=scale)
    return y, low


def join(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """One above the other."""
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def multiply_scaled(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """scale times left @ right, by the product itself."""
    return torch.addmm(left.new_empty(1, 1), left, right, beta=0, alpha=scale)
