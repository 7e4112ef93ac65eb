"""RMSNorm and gated MLP in one kernel each way, where the model's own forward takes a dozen.

The models' own RMSNorm keeps three fp32 copies of its input for the backward; torch's fused one
keeps the bf16 input. The gated product keeps gate and up only. Both compute in fp32 and round
once. fuse_layers changes a model in place; the caller compares results and may undo it.
"""

import functools

import torch
from torch.nn import functional as F

from fast.lora_stack import project

GPU = "cuda"  # where the Triton kernels run


def fuse_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Give plain RMSNorms and, on CUDA, SiLU-gated MLPs a fused forward; the changed modules."""
    changed = []
    for module in model.modules():
        if is_plain_norm(module):
            module.forward = functools.partial(normalise, module)
            changed.append(module)
        elif is_gated_mlp(module) and find_kernels() is not None:
            module.forward = functools.partial(run_gated_mlp, module)
            changed.append(module)
    return changed


@torch.no_grad()
def is_plain_norm(module: torch.nn.Module) -> bool:
    """Whether the module is x / rms(x) * weight; others (1 + weight) have the same class name."""
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
        return False
    probe = torch.linspace(-2, 3, module.weight.numel(), device=module.weight.device)
    probe = probe.to(module.weight.dtype)[None]
    return torch.allclose(module(probe), normalise(module, probe), rtol=1e-2, atol=1e-5)


def normalise(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x [..., H] in its dtype."""
    weight = module.weight.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):  # autocast would return fp32
        return F.rms_norm(x, weight.shape, weight, module.variance_epsilon)


def is_gated_mlp(module: torch.nn.Module) -> bool:
    """Whether the module is down(silu(gate(x)) * up(x))."""
    return (
        type(module).__name__.endswith("MLP")
        and all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))
        and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")
        and next(module.parameters()).device.type == GPU
    )


def run_gated_mlp(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x [..., H] -> [..., H]."""
    return module.down_proj(GatedProduct.apply(project([module.gate_proj, module.up_proj], x)))


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up, elementwise."""

    @staticmethod
    def forward(ctx, both: torch.Tensor) -> torch.Tensor:
        """both [..., 2 I], contiguous: gate, then up -> [..., I]."""
        ctx.save_for_backward(both)
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        find_kernels().launch_forward(both, out)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        """The gradient of both."""
        (both,) = ctx.saved_tensors
        found = torch.empty_like(both)
        find_kernels().launch_backward(grad.contiguous(), both, found)
        return found


@functools.cache
def find_kernels():
    """The Triton kernels; None where there is no Triton (Windows, CPU builds)."""
    from transformers.utils import is_triton_available

    if not is_triton_available():
        return None
    from fast import gated_kernels

    return gated_kernels
