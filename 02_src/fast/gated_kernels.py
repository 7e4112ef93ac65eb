"""Triton kernels of silu(gate) * up; imported only where Triton is installed."""

import torch
import triton
import triton.language as tl

BLOCK = 2048


@triton.jit
def find_places(size, width, BLOCK: tl.constexpr):
    """(places in [M, width], places of their gates in [M, 2 width], which are inside)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return place, place + place // width * width, place < size


@triton.jit
def forward_kernel(both_ptr, out_ptr, size, width, BLOCK: tl.constexpr):
    """out = gate * sigmoid(gate) * up."""
    place, at, inside = find_places(size, width, BLOCK)
    gate = tl.load(both_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + at + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, gate * tl.sigmoid(gate) * up, mask=inside)


@triton.jit
def backward_kernel(grad_ptr, both_ptr, found_ptr, size, width, BLOCK: tl.constexpr):
    """d silu(g) / dg = s (1 + g (1 - s)) with s = sigmoid(g)."""
    place, at, inside = find_places(size, width, BLOCK)
    grad = tl.load(grad_ptr + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(both_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + at + width, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    tl.store(found_ptr + at + width, grad * gate * sigmoid, mask=inside)
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(found_ptr + at, grad * up * slope, mask=inside)


def launch_forward(both: torch.Tensor, out: torch.Tensor) -> None:
    """Fill out [..., I] from both [..., 2 I]: gate, then up; contiguous."""
    size = out.numel()
    grid = (triton.cdiv(size, BLOCK),)
    forward_kernel[grid](both, out, size, out.shape[-1], BLOCK=BLOCK)


def launch_backward(grad: torch.Tensor, both: torch.Tensor, found: torch.Tensor) -> None:
    """Fill found [..., 2 I], the gradient of both, from grad [..., I]; contiguous."""
    size = grad.numel()
    grid = (triton.cdiv(size, BLOCK),)
    backward_kernel[grid](grad, both, found, size, grad.shape[-1], BLOCK=BLOCK)
