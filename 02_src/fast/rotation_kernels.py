"""Triton kernel of rotary positions (Su et al. 2021, arXiv 2104.09864); imported with Triton."""

import torch
import triton
import triton.language as tl

TOKENS_AT_ONCE = 32


@triton.jit
def rotate_kernel(
    x_ptr, cos_ptr, sin_ptr, tokens, stride, HALF: tl.constexpr, BACK: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Rotate one head of some tokens in place: x cos + rotate_half(x) sin, or its transpose."""
    place = (tl.program_id(0) * AT_ONCE + tl.arange(0, AT_ONCE)).to(tl.int64)
    inside = place[:, None] < tokens
    columns = tl.arange(0, HALF)[None, :]
    first = x_ptr + place[:, None] * stride + tl.program_id(1) * 2 * HALF + columns
    angle = place[:, None] * 2 * HALF + columns
    x1 = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(first + HALF, mask=inside, other=0.0).to(tl.float32)
    cos1 = tl.load(cos_ptr + angle, mask=inside, other=0.0).to(tl.float32)
    cos2 = tl.load(cos_ptr + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_ptr + angle, mask=inside, other=0.0).to(tl.float32)
    sin2 = tl.load(sin_ptr + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        y1, y2 = x1 * cos1 + x2 * sin2, x2 * cos2 - x1 * sin1
    else:
        y1, y2 = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
    tl.store(first, y1.to(x_ptr.dtype.element_ty), mask=inside)
    tl.store(first + HALF, y2.to(x_ptr.dtype.element_ty), mask=inside)


def launch_rotation(
    x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, back: bool
) -> None:
    """Rotate the first `heads` heads of x [R, S, H, d] in place by angles [R, S, d]."""
    rows, size, all_heads, head = x.shape
    tokens = rows * size
    rotate_kernel[triton.cdiv(tokens, TOKENS_AT_ONCE), heads](
        x, cos, sin, tokens, all_heads * head,
        HALF=head // 2, BACK=back, AT_ONCE=TOKENS_AT_ONCE,
    )  # fmt: skip
