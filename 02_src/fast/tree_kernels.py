"""Triton kernels of attention along a tree of tokens (fast.layout); imported only with Triton.

A token's keys are itself and the places above it, and a key is above what lies behind it up to its
`end`: one number a token is the whole mask, so no [S, S] mask is built, kept or read. Blocks of
keys that end before a block of queries begins are skipped. Queries of several heads that share
keys (grouped-query attention) read them where they are. Softmax and sums are fp32, as in
FlashAttention-2 (Dao 2023, arXiv 2307.08691), whose backward this follows: log-sums are kept,
probabilities computed again.
"""

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
BLOCK = 64  # places of queries and of keys at once; fast.tree_attention builds its mask with it
WARPS = 4
STAGES, FEWER_STAGES = 3, 2  # of loads in flight; fewer where a card's shared memory is too small
NARROW = 64  # heads up to this wide, in 16 bit, fit every card with the former


@triton.jit
def load_heads(base, places, size, stride, HEAD: tl.constexpr):
    """[BLOCK, HEAD] of one head; zeros beyond the row."""
    columns = tl.arange(0, HEAD)
    at = base + places.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(at, mask=places[:, None] < size, other=0.0)


@triton.jit
def store_heads(base, places, size, stride, values, HEAD: tl.constexpr):
    """Write [BLOCK, HEAD] of one head."""
    columns = tl.arange(0, HEAD)
    at = base + places.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=places[:, None] < size)


@triton.jit
def is_visible(queries, keys, ends):
    """[queries, keys]: a query sees itself and what is above it."""
    behind = (queries[:, None] > keys[None, :]) & (queries[:, None] < ends[None, :])
    return behind | (queries[:, None] == keys[None, :])


@triton.jit
def forward_kernel(
    qkv_ptr, mask_ptr, out_ptr, lse_ptr, scale, size, heads, groups,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: softmax(scale q k') v and log2 of its denominator."""
    block, row, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    group = head // (heads // groups)
    stride = (heads + 2 * groups) * HEAD
    qkv_ptr += row.to(tl.int64) * size * stride
    mask_ptr += row * 2 * size
    queries = block * BLOCK + tl.arange(0, BLOCK)
    q = load_heads(qkv_ptr + head * HEAD, queries, size, stride, HEAD)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    found = tl.zeros([BLOCK, HEAD], tl.float32)
    for other in range(0, block + 1):
        start = other * BLOCK
        last = tl.load(mask_ptr + size + start)
        if (last > block * BLOCK) | (other == block):
            keys = start + tl.arange(0, BLOCK)
            ends = tl.load(mask_ptr + keys, mask=keys < size, other=0)
            k = load_heads(qkv_ptr + (heads + group) * HEAD, keys, size, stride, HEAD)
            v = load_heads(qkv_ptr + (heads + groups + group) * HEAD, keys, size, stride, HEAD)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            scores = tl.where(is_visible(queries, keys, ends), scores, float("-inf"))
            new = tl.maximum(top, tl.max(scores, 1))
            safe = tl.where(new == float("-inf"), 0.0, new)  # nothing seen so far
            probs = tl.exp2(scores - safe[:, None])
            shrink = tl.exp2(top - safe)
            total = total * shrink + tl.sum(probs, 1)
            found = found * shrink[:, None]
            found += tl.dot(probs.to(v.dtype), v, input_precision=PRECISION)
            top = new
    store_heads(
        out_ptr + row.to(tl.int64) * size * heads * HEAD + head * HEAD,
        queries, size, heads * HEAD, found / total[:, None], HEAD,
    )  # fmt: skip
    lse_ptr += (row * heads + head) * size
    tl.store(lse_ptr + queries, top + tl.log2(total), mask=queries < size)


@triton.jit
def sums_kernel(
    out_ptr, grad_ptr, sums_ptr, size, heads, HEAD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """sum(out * grad) over each head: the softmax's share of every score's gradient."""
    row, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    queries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    start = row.to(tl.int64) * size * heads * HEAD + head * HEAD
    out = load_heads(out_ptr + start, queries, size, heads * HEAD, HEAD).to(tl.float32)
    grad = load_heads(grad_ptr + start, queries, size, heads * HEAD, HEAD).to(tl.float32)
    place = (row * heads + head) * size + queries
    tl.store(sums_ptr + place, tl.sum(out * grad, 1), mask=queries < size)


@triton.jit
def find_probs(q, k, lse, queries, keys, ends, scale, PRECISION: tl.constexpr):
    """[queries, keys] probabilities, computed again from the logarithm of their sum."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    return tl.where(is_visible(queries, keys, ends), tl.exp2(scores - lse[:, None]), 0.0)


@triton.jit
def find_slopes(probs, grad, v, sums, PRECISION: tl.constexpr):
    """[queries, keys] gradients of the scores."""
    slopes = tl.dot(grad, tl.trans(v), input_precision=PRECISION) - sums[:, None]
    return (probs * slopes).to(v.dtype)


@triton.jit
def query_kernel(
    qkv_ptr, mask_ptr, grad_ptr, lse_ptr, sums_ptr, found_ptr, scale, factor, size, heads, groups,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one block of queries of one head."""
    block, row, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    group = head // (heads // groups)
    stride = (heads + 2 * groups) * HEAD
    qkv_ptr += row.to(tl.int64) * size * stride
    mask_ptr += row * 2 * size
    queries = block * BLOCK + tl.arange(0, BLOCK)
    q = load_heads(qkv_ptr + head * HEAD, queries, size, stride, HEAD)
    grad_ptr += row.to(tl.int64) * size * heads * HEAD + head * HEAD
    grad = load_heads(grad_ptr, queries, size, heads * HEAD, HEAD)
    place = (row * heads + head) * size + queries
    lse = tl.load(lse_ptr + place, mask=queries < size, other=0.0)
    sums = tl.load(sums_ptr + place, mask=queries < size, other=0.0)
    found = tl.zeros([BLOCK, HEAD], tl.float32)
    for other in range(0, block + 1):
        start = other * BLOCK
        last = tl.load(mask_ptr + size + start)
        if (last > block * BLOCK) | (other == block):
            keys = start + tl.arange(0, BLOCK)
            ends = tl.load(mask_ptr + keys, mask=keys < size, other=0)
            k = load_heads(qkv_ptr + (heads + group) * HEAD, keys, size, stride, HEAD)
            v = load_heads(qkv_ptr + (heads + groups + group) * HEAD, keys, size, stride, HEAD)
            probs = find_probs(q, k, lse, queries, keys, ends, scale, PRECISION)
            slopes = find_slopes(probs, grad, v, sums, PRECISION)
            found += tl.dot(slopes, k, input_precision=PRECISION)
    found_ptr += row.to(tl.int64) * size * stride + head * HEAD
    store_heads(found_ptr, queries, size, stride, found * factor, HEAD)


@triton.jit
def key_kernel(
    qkv_ptr, mask_ptr, grad_ptr, lse_ptr, sums_ptr, found_ptr, scale, factor, size, heads, groups,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values, from all heads that share them."""
    block, row, group = tl.program_id(0), tl.program_id(1) // groups, tl.program_id(1) % groups
    stride, at_key, at_value = (heads + 2 * groups) * HEAD, heads + group, heads + groups + group
    qkv_ptr += row.to(tl.int64) * size * stride
    mask_ptr += row * 2 * size
    grad_ptr += row.to(tl.int64) * size * heads * HEAD
    keys = block * BLOCK + tl.arange(0, BLOCK)
    ends = tl.load(mask_ptr + keys, mask=keys < size, other=0)
    k = load_heads(qkv_ptr + at_key * HEAD, keys, size, stride, HEAD)
    v = load_heads(qkv_ptr + at_value * HEAD, keys, size, stride, HEAD)
    found_k, found_v = tl.zeros([BLOCK, HEAD], tl.float32), tl.zeros([BLOCK, HEAD], tl.float32)
    last = tl.load(mask_ptr + size + block * BLOCK)  # no query from here on sees this block
    stop = tl.maximum(tl.cdiv(last, BLOCK), block + 1)
    for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
        for other in range(block, stop):
            queries = other * BLOCK + tl.arange(0, BLOCK)
            place = (row * heads + head) * size + queries
            lse = tl.load(lse_ptr + place, mask=queries < size, other=0.0)
            sums = tl.load(sums_ptr + place, mask=queries < size, other=0.0)
            q = load_heads(qkv_ptr + head * HEAD, queries, size, stride, HEAD)
            grad = load_heads(grad_ptr + head * HEAD, queries, size, heads * HEAD, HEAD)
            probs = find_probs(q, k, lse, queries, keys, ends, scale, PRECISION)
            found_v += tl.dot(tl.trans(probs.to(grad.dtype)), grad, input_precision=PRECISION)
            slopes = find_slopes(probs, grad, v, sums, PRECISION)
            found_k += tl.dot(tl.trans(slopes), q, input_precision=PRECISION)
    found_ptr += row.to(tl.int64) * size * stride
    store_heads(found_ptr + at_key * HEAD, keys, size, stride, found_k * factor, HEAD)
    store_heads(found_ptr + at_value * HEAD, keys, size, stride, found_v, HEAD)


def launch_forward(
    qkv: torch.Tensor, mask: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, scale: float
) -> None:
    """Fill out [R, S, H, d] and lse [R, H, S] from qkv [R, S, H + 2G, d]; all contiguous."""
    rows, size, heads, head = out.shape
    groups = (qkv.shape[2] - heads) // 2
    grid = (triton.cdiv(size, BLOCK), rows * heads)
    forward_kernel[grid](
        qkv, mask, out, lse, scale * LOG2_E, size, heads, groups,
        **choose_options(qkv),
    )  # fmt: skip


def launch_backward(
    qkv: torch.Tensor,
    mask: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    found: torch.Tensor,
    scale: float,
) -> None:
    """Fill found [R, S, H + 2G, d], the gradient of qkv, from grad [R, S, H, d]."""
    rows, size, heads, head = out.shape
    groups = (qkv.shape[2] - heads) // 2
    blocks = triton.cdiv(size, BLOCK)
    sums = torch.empty_like(lse)
    sums_kernel[blocks, rows * heads](out, grad, sums, size, heads, HEAD=head, BLOCK=BLOCK)
    shared = (qkv, mask, grad, lse, sums, found, scale * LOG2_E, scale, size, heads, groups)
    how = choose_options(qkv)
    key_kernel[blocks, rows * groups](*shared, **how)
    query_kernel[blocks, rows * heads](*shared, **how)


def choose_options(qkv: torch.Tensor) -> dict[str, int | str]:
    """The kernels' constants for [R, S, H + 2G, d]; products of fp32 numbers are made exactly."""
    head, exact = qkv.shape[-1], qkv.dtype == torch.float32
    return {
        "HEAD": head,
        "BLOCK": BLOCK,
        "PRECISION": "ieee" if exact else "tf32",
        "num_warps": WARPS,
        "num_stages": FEWER_STAGES if exact or head > NARROW else STAGES,
    }
