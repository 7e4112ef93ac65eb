"""LoRA on a frozen linear layer as one autograd node: y = x W' + s x A' B'.

PEFT's forward clones, scales and adds whole activations around the two small matmuls. Here the
adapter's product is accumulated by the matmul itself, forward and backward, which removes seven
passes over every linear layer's output and about half of a step's kernel launches. W may be a
bitsandbytes 4-bit weight; on a GPU it is dequantised where it is used and never kept, on a CPU with
memory to spare once for all.
"""

import functools

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import bitsandbytes
import psutil
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer

SPARE_MEMORY = 4  # 4-bit weights are kept dequantised where this many times their size is free


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
    keep_dequantised([layer.weight for layer in [*(x.get_base_layer() for x in layers), *bare]])
    return layers + bare


def keep_dequantised(weights: list[torch.Tensor]) -> None:
    """Hold 4-bit weights on the CPU in their 16-bit form, too: the same values, computed once.

    Dequantising takes a tenth of a step on short pairs.
    """
    packed = [w for w in weights if hasattr(w, "quant_state") and w.device.type == "cpu"]
    size = sum(w.quant_state.shape.numel() * w.quant_state.dtype.itemsize for w in packed)
    if psutil.virtual_memory().available < SPARE_MEMORY * size:
        return
    for weight in packed:
        weight.dequantised = read_weight(weight, weight.quant_state.dtype)


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
    dtype = choose_dtype(x)
    if layer.disable_adapters and not torch.is_grad_enabled():
        return run_base(layer.get_base_layer(), x.to(dtype))
    if layer.disable_adapters:
        return stock_forward(x)
    name = layer.active_adapters[0]
    a, b = layer.lora_A[name].weight.to(dtype), layer.lora_B[name].weight.to(dtype)
    base = layer.get_base_layer()
    with torch.autocast(x.device.type, enabled=False):
        return LoraLinear.apply(x.to(dtype), base.weight, base.bias, a, b, layer.scaling[name])


def forward_frozen(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output [..., out] of a frozen 4-bit layer without LoRA, for x [..., in]."""
    dtype = choose_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return FrozenLinear.apply(x.to(dtype), layer.weight, layer.bias)


def choose_dtype(x: torch.Tensor) -> torch.dtype:
    """What a linear layer computes in: autocast's dtype, or x's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def run_base(base: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The frozen layer's output [..., out] for x [..., in], in x's dtype."""
    with torch.autocast(x.device.type, enabled=False):
        y = multiply_frozen(x.reshape(-1, x.shape[-1]), base.weight, base.bias)
    return y.view(*x.shape[:-1], -1)


class LoraLinear(torch.autograd.Function):
    """Gradients for x, A and B; the base weight and bias are frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        """x [..., in], weight [out, in] or 4-bit, a [r, in], b [out, r] -> [..., out]."""
        rows = x.reshape(-1, x.shape[-1])  # [M, in]
        low = (rows @ a.t()).mul_(scale)  # [M, r]
        y = multiply_frozen(rows, weight, bias).addmm_(low, b.t())
        ctx.save_for_backward(rows, low, a, b)
        ctx.weight, ctx.scale, ctx.shape = weight, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        """grad [..., out] -> gradients of x, a and b."""
        rows, low, a, b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])  # [M, out]
        grad_low = (grad @ b).mul_(ctx.scale)  # [M, r]
        grad_x = None
        if ctx.needs_input_grad[0]:
            weight = read_weight(ctx.weight, grad.dtype)
            grad_x = (grad @ weight).addmm_(grad_low, a).view(ctx.shape)
        return grad_x, None, None, grad_low.t() @ rows, grad.t() @ low, None


class FrozenLinear(torch.autograd.Function):
    """The gradient for x alone; nothing of x is kept."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        """x [..., in], weight [out, in] in 4 bit -> [..., out]."""
        ctx.weight, ctx.shape = weight, x.shape
        y = multiply_frozen(x.reshape(-1, x.shape[-1]), weight, bias)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        """grad [..., out] -> gradient of x."""
        rows = grad.reshape(-1, grad.shape[-1])
        return (rows @ read_weight(ctx.weight, grad.dtype)).view(ctx.shape), None, None


def multiply_frozen(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """rows [M, in] times the frozen weight, plus bias: a fresh [M, out]."""
    bias = None if bias is None else bias.to(rows.dtype)
    state = getattr(weight, "quant_state", None)
    if state is None or hasattr(weight, "dequantised"):
        return torch.nn.functional.linear(rows, read_weight(weight, rows.dtype), bias)
    return bitsandbytes.matmul_4bit(rows, weight, quant_state=state, bias=bias)


def read_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weight [out, in] in `dtype`; 4-bit weights are dequantised."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.to(dtype)
    if hasattr(weight, "dequantised"):
        return weight.dequantised.to(dtype)
    full = bitsandbytes.functional.dequantize_4bit(weight.data.view(-1, 1), state)
    return full.view(state.shape).to(dtype)
