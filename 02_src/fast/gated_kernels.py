"""Triton kernels of silu(gate) * up; imported only where Triton is installed."""

import torch
import triton
import triton.language as tl

BLOCK = 2048


@triton.jit
def forward_kernel(gate_ptr, up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """out = gate * sigmoid(gate) * up."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    gate = tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, gate * tl.sigmoid(gate) * up, mask=mask)


@triton.jit
def backward_kernel(
    grad_ptr, gate_ptr, up_ptr, grad_gate_ptr, grad_up_ptr, size, BLOCK: tl.constexpr
):
    """d silu(g) / dg = s (1 + g (1 - s)) with s = sigmoid(g)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    tl.store(grad_up_ptr + place, grad * gate * sigmoid, mask=mask)
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_gate_ptr + place, grad * up * slope, mask=mask)


def launch_forward(gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out`; all contiguous, of one shape."""
    size = out.numel()
    forward_kernel[(triton.cdiv(size, BLOCK),)](gate, up, out, size, BLOCK=BLOCK)


def launch_backward(
    grad: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    grad_gate: torch.Tensor,
    grad_up: torch.Tensor,
) -> None:
    """Fill both gradients; all contiguous, of one shape."""
    size = grad.numel()
    backward_kernel[(triton.cdiv(size, BLOCK),)](
        grad, gate, up, grad_gate, grad_up, size, BLOCK=BLOCK
    )
