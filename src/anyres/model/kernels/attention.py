"""Softmax attention within each image of a pack, forward and backward (FlashAttention-2, arXiv 2307.08691).

Made for many short images. A program takes one tile of one image and one head, so that no work is done between images;
a head's dimension is cut in two powers of two (72 = 64 + 8, the second part padded to 16), where other kernels pad the
whole. The backward has one kernel for the queries' gradient and one for those of keys and values: each computes the
weights anew and adds up in a fixed order, so that equal inputs give equal bits.

Softmax is in base 2: weights are 2^(s − lse) with s = q·k·log2(e)/√dim.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .pieces import cut

TILE = 64  # tokens of a tile


class Tiles(NamedTuple):
    """A pack cut for attention.

    Attributes:
        bounds: (tiles, 3) int32: first token, end, row of the image; first = end in tiles that are not used.
        cu_seqlens: (images + 1,) int32, cumulative lengths of the segments.
    """

    bounds: Tensor
    cu_seqlens: Tensor


def tiles(cu_seqlens: Tensor, tokens: int) -> Tiles:
    """Cut a pack; never waits for the device."""
    return Tiles(cut(cu_seqlens, tokens, TILE).bounds, cu_seqlens)


def forward(q: Tensor, k: Tensor, v: Tensor, plan: Tiles) -> tuple[Tensor, Tensor]:
    """(tokens, heads, dim) each, a token's values adjacent → the attended values, and lse (heads, tokens) float32."""
    tokens, heads, dim = q.shape
    out = torch.empty(tokens, heads, dim, device=q.device, dtype=q.dtype)
    lse = torch.empty(heads, tokens, device=q.device, dtype=torch.float32)
    _attend[(len(plan.bounds), heads)](
        q, k, v, out, lse, *plan, q.stride(0), k.stride(0), v.stride(0), tokens, _scale(dim),
        **_constants(q), STEP=64, num_warps=4, num_stages=3, maxnreg=_registers(q, 168),
    )  # fmt: skip
    return out, lse


class Gradients(NamedTuple):
    """Of a forward pass.

    Attributes:
        q: (tokens, heads, dim).
        k: likewise.
        sum_v: (tiles, heads, dim) float32, the sum of the values' gradient over the tokens of each tile.
    """

    q: Tensor
    k: Tensor
    sum_v: Tensor


def backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: Tiles, d_v: Tensor
) -> Gradients:
    """Gradients of q and k; that of v is written into `d_v`, (tokens, heads, dim), a token's values adjacent."""
    tokens, heads, dim = q.shape
    d_out = d_out.contiguous()
    d_q, d_k = torch.empty(2, tokens, heads, dim, device=q.device, dtype=q.dtype).unbind(0)
    sum_v = torch.zeros(len(plan.bounds), heads, dim, device=q.device, dtype=torch.float32)
    delta = torch.empty_like(lse)
    grid = (len(plan.bounds), heads)
    strides = (q.stride(0), k.stride(0), v.stride(0))
    constants = _constants(q)
    _attend_backward_queries[grid](
        d_out, q, k, v, out, lse, delta, d_q, *plan, *strides, tokens, _scale(dim), dim**-0.5,
        **constants, STEP=64, num_warps=4, num_stages=1, maxnreg=_registers(q, 128),
    )  # fmt: skip
    _attend_backward_keys[grid](
        d_out, q, k, v, lse, delta, d_k, d_v, sum_v, *plan, *strides, d_v.stride(0), tokens, _scale(dim), dim**-0.5,
        **constants, STEP=64, num_warps=4, num_stages=1,
    )  # fmt: skip
    return Gradients(d_q, d_k, sum_v)


def _scale(dim: int) -> float:
    return math.log2(math.e) * dim**-0.5


def _registers(q: Tensor, most: int) -> int | None:
    """A bound on a thread's registers, so that one more program fits; where heads are wide it would cost more."""
    return most if q.element_size() == 2 and q.shape[2] <= 80 else None


def _constants(q: Tensor) -> dict[str, Any]:
    return {**_shape(q), "TILE": TILE, "PRECISION": _precision(q)}


def _shape(q: Tensor) -> dict[str, int]:
    """Heads, and their dimension in the two parts that `_rows` reads."""
    _, heads, dim = q.shape
    first = max(16, 1 << (dim.bit_length() - 1))
    rest = max(16, triton.next_power_of_2(dim - first)) if dim > first else 0
    return {"HEADS": heads, "DIM": dim, "FIRST": first, "REST": rest}


def _precision(q: Tensor) -> str:
    """Of products."""
    return "ieee" if q.dtype == torch.float32 else "tf32"


@triton.jit
def _rows(x, row, inside, stride, head, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr):
    """One head of some tokens in two parts: (tokens, FIRST) and (tokens, REST), zero beyond DIM."""
    at = x + row[:, None].to(tl.int64) * stride + head * DIM
    cols = tl.arange(0, FIRST)
    mask = inside[:, None] if FIRST <= DIM else inside[:, None] & (cols < DIM)[None, :]
    first = tl.load(at + cols[None, :], mask=mask, other=0.0)
    if REST:
        more = FIRST + tl.arange(0, REST)
        rest = tl.load(at + more[None, :], mask=inside[:, None] & (more < DIM)[None, :], other=0.0)
    else:
        rest = first
    return first, rest


@triton.jit
def _save(
    x, row, inside, stride, head, first, rest, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr
):  # fmt: skip
    at = x + row[:, None].to(tl.int64) * stride + head * DIM
    cols = tl.arange(0, FIRST)
    mask = inside[:, None] if FIRST <= DIM else inside[:, None] & (cols < DIM)[None, :]
    tl.store(at + cols[None, :], first.to(x.dtype.element_ty), mask=mask)
    if REST:
        more = FIRST + tl.arange(0, REST)
        tl.store(at + more[None, :], rest.to(x.dtype.element_ty), mask=inside[:, None] & (more < DIM)[None, :])


@triton.jit
def _products(a, a_rest, b, b_rest, REST: tl.constexpr, PRECISION: tl.constexpr):
    """a·bᵀ over both parts: (rows of a, rows of b) float32."""
    s = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    if REST:
        s = tl.dot(a_rest, tl.trans(b_rest), s, input_precision=PRECISION)
    return s


@triton.jit
def _attend(
    q, k, v, out, lse, bounds, cu_seqlens, q_stride, k_stride, v_stride, tokens, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    image = tl.load(bounds + 3 * tile + 2)
    if start < end:
        first, last = tl.load(cu_seqlens + image), tl.load(cu_seqlens + image + 1)
        mine = start + tl.arange(0, TILE)
        inside = mine < end
        q1, q2 = _rows(q, mine, inside, q_stride, head, DIM, FIRST, REST)
        greatest = tl.full((TILE,), float("-inf"), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        sum1 = tl.zeros((TILE, FIRST), tl.float32)
        sum2 = tl.zeros((TILE, REST if REST else FIRST), tl.float32)
        for other in range(first, last, STEP):
            theirs = other + tl.arange(0, STEP)
            here = theirs < last
            k1, k2 = _rows(k, theirs, here, k_stride, head, DIM, FIRST, REST)
            v1, v2 = _rows(v, theirs, here, v_stride, head, DIM, FIRST, REST)
            s = _products(q1, q2, k1, k2, REST, PRECISION) * scale
            s = tl.where(here[None, :], s, float("-inf"))
            now = tl.maximum(greatest, tl.max(s, axis=1))
            weights = tl.exp2(s - now[:, None])
            kept = tl.exp2(greatest - now)
            greatest = now
            total = total * kept + tl.sum(weights, axis=1)
            weights = weights.to(v1.dtype)
            sum1 = tl.dot(weights, v1, sum1 * kept[:, None], input_precision=PRECISION)
            if REST:
                sum2 = tl.dot(weights, v2, sum2 * kept[:, None], input_precision=PRECISION)
        _save(out, mine, inside, HEADS * DIM, head, sum1 / total[:, None], sum2 / total[:, None], DIM, FIRST, REST)
        tl.store(lse + head * tokens + mine, greatest + tl.log2(total), mask=inside)


@triton.jit
def _attend_backward_queries(
    d_out, q, k, v, out, lse, delta, d_q, bounds, cu_seqlens, q_stride, k_stride, v_stride, tokens, scale, root,
    HEADS: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    image = tl.load(bounds + 3 * tile + 2)
    if start < end:
        first, last = tl.load(cu_seqlens + image), tl.load(cu_seqlens + image + 1)
        mine = start + tl.arange(0, TILE)
        inside = mine < end
        q1, q2 = _rows(q, mine, inside, q_stride, head, DIM, FIRST, REST)
        o1, o2 = _rows(out, mine, inside, HEADS * DIM, head, DIM, FIRST, REST)
        g1, g2 = _rows(d_out, mine, inside, HEADS * DIM, head, DIM, FIRST, REST)
        # each row's sum of out·d_out, which the softmax's gradient needs; the keys' kernel reads it, too
        along = tl.sum(o1.to(tl.float32) * g1.to(tl.float32), axis=1)
        if REST:
            along += tl.sum(o2.to(tl.float32) * g2.to(tl.float32), axis=1)
        tl.store(delta + head * tokens + mine, along, mask=inside)
        log = tl.load(lse + head * tokens + mine, mask=inside, other=0.0)
        sum1 = tl.zeros((TILE, FIRST), tl.float32)
        sum2 = tl.zeros((TILE, REST if REST else FIRST), tl.float32)
        for other in range(first, last, STEP):
            theirs = other + tl.arange(0, STEP)
            here = theirs < last
            k1, k2 = _rows(k, theirs, here, k_stride, head, DIM, FIRST, REST)
            v1, v2 = _rows(v, theirs, here, v_stride, head, DIM, FIRST, REST)
            s = _products(q1, q2, k1, k2, REST, PRECISION) * scale
            weights = tl.where(here[None, :], tl.exp2(s - log[:, None]), 0.0)
            d_weights = _products(g1, g2, v1, v2, REST, PRECISION)
            d_s = (weights * (d_weights - along[:, None])).to(k1.dtype)
            sum1 = tl.dot(d_s, k1, sum1, input_precision=PRECISION)
            if REST:
                sum2 = tl.dot(d_s, k2, sum2, input_precision=PRECISION)
        _save(d_q, mine, inside, HEADS * DIM, head, sum1 * root, sum2 * root, DIM, FIRST, REST)


@triton.jit
def _attend_backward_keys(
    d_out, q, k, v, lse, delta, d_k, d_v, sum_v, bounds, cu_seqlens, q_stride, k_stride, v_stride, d_v_stride,
    tokens, scale, root,
    HEADS: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, TILE: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    image = tl.load(bounds + 3 * tile + 2)
    if start < end:
        first, last = tl.load(cu_seqlens + image), tl.load(cu_seqlens + image + 1)
        mine = start + tl.arange(0, TILE)
        inside = mine < end
        k1, k2 = _rows(k, mine, inside, k_stride, head, DIM, FIRST, REST)
        v1, v2 = _rows(v, mine, inside, v_stride, head, DIM, FIRST, REST)
        k_sum1, v_sum1 = tl.zeros((TILE, FIRST), tl.float32), tl.zeros((TILE, FIRST), tl.float32)
        k_sum2 = tl.zeros((TILE, REST if REST else FIRST), tl.float32)
        v_sum2 = tl.zeros((TILE, REST if REST else FIRST), tl.float32)
        for other in range(first, last, STEP):
            theirs = other + tl.arange(0, STEP)
            here = theirs < last
            q1, q2 = _rows(q, theirs, here, q_stride, head, DIM, FIRST, REST)
            g1, g2 = _rows(d_out, theirs, here, HEADS * DIM, head, DIM, FIRST, REST)
            log = tl.load(lse + head * tokens + theirs, mask=here, other=0.0)
            along = tl.load(delta + head * tokens + theirs, mask=here, other=0.0)
            s = _products(k1, k2, q1, q2, REST, PRECISION) * scale  # transposed: rows are keys
            weights = tl.where(here[None, :], tl.exp2(s - log[None, :]), 0.0)
            d_weights = _products(v1, v2, g1, g2, REST, PRECISION)
            d_s = (weights * (d_weights - along[None, :])).to(q1.dtype)
            weights = weights.to(g1.dtype)
            v_sum1 = tl.dot(weights, g1, v_sum1, input_precision=PRECISION)
            k_sum1 = tl.dot(d_s, q1, k_sum1, input_precision=PRECISION)
            if REST:
                v_sum2 = tl.dot(weights, g2, v_sum2, input_precision=PRECISION)
                k_sum2 = tl.dot(d_s, q2, k_sum2, input_precision=PRECISION)
        _save(d_k, mine, inside, HEADS * DIM, head, k_sum1 * root, k_sum2 * root, DIM, FIRST, REST)
        _save(d_v, mine, inside, d_v_stride, head, v_sum1, v_sum2, DIM, FIRST, REST)
        all1 = tl.sum(tl.where(inside[:, None], v_sum1, 0.0), axis=0)[None, :]
        all2 = tl.sum(tl.where(inside[:, None], v_sum2, 0.0), axis=0)[None, :]
        once = tl.arange(0, 1)
        _save(sum_v, tile + once, once == 0, HEADS * DIM, head, all1, all2, DIM, FIRST, REST)
