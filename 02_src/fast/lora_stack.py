"""Linear layers that share one input, run as one: queries, keys and values; gate and up.

One product with the stacked frozen weights and one with the stacked A matrices take the place of
one for each layer, forward and backward, and the input's gradient is summed inside the products.
"""

from collections.abc import Sequence

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import torch
from peft.tuners.lora import LoraLayer

from fast.lora_linear import is_fused, run_layers


def project(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
    """[..., sum of out]: every layer's output for x [..., in], one behind the other.

    In one piece where all are fused LoRA layers whose adapters are alike on or off.
    """
    if all(is_fused(layer) and not layer.merged for layer in layers):
        off = [layer.disable_adapters for layer in layers]
        if not any(off) or (all(off) and not torch.is_grad_enabled()):
            return run_layers(layers, x)
    return torch.cat([layer(x) for layer in layers], -1)


def list_weights(layers: Sequence[torch.nn.Module]) -> list[torch.Tensor]:
    """The frozen weight below each layer's adapter."""
    bases = [m.get_base_layer() if isinstance(m, LoraLayer) else m for m in layers]
    return [base.weight for base in bases]
