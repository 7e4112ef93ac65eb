"""The frozen weights below the adapters, in full: dequantised where they are used, or kept so.

A 4-bit weight is dequantised by every forward and backward, three kernels each time. Where its
16-bit form is small beside the machine's memory it is made once and kept: the same values.
"""

from collections.abc import Sequence

import quick_bitsandbytes  # noqa: F401  # isort: skip  (before peft and trl)
import bitsandbytes
import psutil
import torch

SPARE_MEMORY = 4  # on a CPU, kept where this many times their size is free
KEPT_SHARE = 0.01  # on a GPU, kept where they take no more of its memory
FEW_ROWS = 1536  # up to which bitsandbytes multiplies 4-bit weights without writing them out
Weights = Sequence[torch.Tensor]


def keep_weights(groups: Sequence[Weights]) -> None:
    """Lay the weights of each group (fast.lora_stack) one behind the other, ready to multiply by.

    16-bit weights are moved there. 4-bit ones are held in their 16-bit form, too, where there is
    memory to spare.
    """
    packed = [group for group in groups if all(hasattr(w, "quant_state") for w in group)]
    if packed and count_bytes(packed) <= find_room(packed[0][0].device):
        for group in packed:
            for weight, part in zip(group, stack(group), strict=True):
                weight.dequantised = part
    for group in groups:
        if len(group) > 1 and not any(hasattr(w, "quant_state") for w in group):
            for weight, part in zip(group, stack(group), strict=True):
                weight.data = part


def stack(group: Weights) -> Sequence[torch.Tensor]:
    """The group's weights in one piece, which its first one remembers; each one's part."""
    state = getattr(group[0], "quant_state", None)
    whole = read_stacked(group, group[0].dtype if state is None else state.dtype)
    if len(group) > 1:
        group[0].stacked = whole
    return whole.split([len_of(weight) for weight in group])


def count_bytes(groups: Sequence[Weights]) -> int:
    """Bytes of the weights' 16-bit form."""
    states = [weight.quant_state for group in groups for weight in group]
    return sum(state.shape.numel() * state.dtype.itemsize for state in states)


def find_room(device: torch.device) -> float:
    """Bytes that kept weights may take on a device."""
    if device.type == "cuda":
        return KEPT_SHARE * torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().available / SPARE_MEMORY if device.type == "cpu" else 0.0


def len_of(weight: torch.Tensor) -> int:
    """Outputs of a weight [out, in], in 4 bit or not."""
    state = getattr(weight, "quant_state", None)
    return weight.shape[0] if state is None else state.shape[0]


def multiply_frozen(
    rows: torch.Tensor, weights: Weights, biases: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """rows [M, in] times the frozen weights, plus biases: a fresh [M, sum of out]."""
    if not is_packed(weights) or (len(weights) > 1 and rows.shape[0] > FEW_ROWS):
        bias = stack_biases(weights, biases, rows)
        return torch.nn.functional.linear(rows, read_stacked(weights, rows.dtype), bias)
    found = [
        bitsandbytes.matmul_4bit(
            rows, weight, quant_state=weight.quant_state,
            bias=None if bias is None else bias.to(rows.dtype),
        )
        for weight, bias in zip(weights, biases, strict=True)
    ]  # fmt: skip
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def is_packed(weights: Weights) -> bool:
    """Whether all are there in 4 bit only."""
    return all(hasattr(w, "quant_state") and not hasattr(w, "dequantised") for w in weights)


def stack_biases(
    weights: Weights, biases: Sequence[torch.Tensor | None], rows: torch.Tensor
) -> torch.Tensor | None:
    """One bias for all; zeros for layers without one; None where no layer has any."""
    if all(bias is None for bias in biases):
        return None
    filled = [
        rows.new_zeros(len_of(weight)) if bias is None else bias.to(rows.dtype)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return filled[0] if len(filled) == 1 else torch.cat(filled)


def read_stacked(weights: Weights, dtype: torch.dtype) -> torch.Tensor:
    """[sum of out, in] in `dtype`; 4-bit weights are dequantised."""
    if len(weights) == 1:
        return read_weight(weights[0], dtype)
    kept = getattr(weights[0], "stacked", None)
    if kept is not None:
        return kept.to(dtype)
    sizes = [len_of(weight) for weight in weights]
    shape = sum(sizes), read_width(weights[0])
    whole = torch.empty(shape, dtype=dtype, device=weights[0].device)
    for weight, part in zip(weights, whole.split(sizes), strict=True):
        write_weight(weight, part)
    return whole


def read_width(weight: torch.Tensor) -> int:
    """Inputs of a weight [out, in], in 4 bit or not."""
    state = getattr(weight, "quant_state", None)
    return weight.shape[1] if state is None else state.shape[1]


def read_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weight [out, in] in `dtype`; 4-bit weights are dequantised."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.to(dtype)
    if hasattr(weight, "dequantised"):
        return weight.dequantised.to(dtype)
    full = bitsandbytes.functional.dequantize_4bit(weight.data.view(-1, 1), state)
    return full.view(state.shape).to(dtype)


def write_weight(weight: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` [out, in] with the frozen weight."""
    state = getattr(weight, "quant_state", None)
    if state is not None and state.dtype == out.dtype and weight.device.type == "cuda":
        bitsandbytes.functional.dequantize_4bit(weight.data.view(-1, 1), state, out=out)
    else:
        out.copy_(read_weight(weight, out.dtype))
