"""The backward of `rotation.py` with the product's gradient in 8 bits: a token's queries, keys and values together.

They are a row of the matrix that the products read, so that they have one scale.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Rows
from .float8 import scale_of
from .rotation import Norms, _angles, _gradient, _load, _store_sums, _sums, _tile, _vectors, _words

BACKWARD = {"TOKENS": 32, "AHEAD": 3, "num_warps": 4}


def backward(
    d_q: Tensor,
    d_k: Tensor,
    d_v: Tensor,
    product: Tensor,
    norms: Norms | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    d_bias: Tensor,
) -> tuple[Rows, Tensor | None]:
    """As `rotation.backward`, and `d_v` like the other two; the product's gradient is returned, too."""
    tokens, heads, dim = d_q.shape
    rows, programs = Rows.empty(product.shape, product.device), triton.cdiv(tokens, BACKWARD["TOKENS"])
    sum_bias = torch.empty(programs, 2, heads, dim, device=product.device, dtype=torch.float32)
    sum_norms = torch.empty(programs, 4, dim, device=product.device, dtype=torch.float32)
    q_weight, k_weight = (norms.q_weight, norms.k_weight) if norms else (cos, cos)
    _heads_backward[(programs,)](
        *(_words(one.contiguous()) for one in (d_q, d_k, d_v, product)), q_weight, k_weight, cos, sin,
        *rows, sum_bias, sum_norms, tokens, eps,
        NORM=norms is not None, **_tile(product, heads, dim), **BACKWARD,
    )  # fmt: skip
    return rows, _sums(sum_bias, sum_norms, d_bias, q_weight.dtype if norms else None)


@triton.jit
def _heads_backward(
    d_q, d_k, d_v, product, q_weight, k_weight, cos, sin, values, scales, d_bias, d_norms, tokens, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr, AHEAD: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, ALL_HEADS: tl.constexpr, ALL_PAIRS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    head, pair = tl.arange(0, ALL_HEADS), tl.arange(0, ALL_PAIRS)
    inside = pair < PAIRS
    line = head[:, None] * PAIRS + pair[None, :]  # in words
    of_head = (head < HEADS)[:, None] & inside[None, :]
    q_sum_a, q_sum_b = tl.zeros((ALL_HEADS, ALL_PAIRS), tl.float32), tl.zeros((ALL_HEADS, ALL_PAIRS), tl.float32)
    k_sum_a, k_sum_b = tl.zeros_like(q_sum_a), tl.zeros_like(q_sum_a)
    q_weight_a, q_weight_b, k_weight_a, k_weight_b = q_sum_a, q_sum_b, q_sum_a, q_sum_b
    if NORM:
        q_weight_a, q_weight_b = _vectors(q_weight, pair, inside)
        k_weight_a, k_weight_b = _vectors(k_weight, pair, inside)
        q_scale_a, q_scale_b = tl.zeros_like(q_sum_a), tl.zeros_like(q_sum_a)
        q_shift_a, q_shift_b = tl.zeros_like(q_sum_a), tl.zeros_like(q_sum_a)
        k_scale_a, k_scale_b = tl.zeros_like(q_sum_a), tl.zeros_like(q_sum_a)
        k_shift_a, k_shift_b = tl.zeros_like(q_sum_a), tl.zeros_like(q_sum_a)
    for number in tl.range(0, tl.minimum(TOKENS, tokens - program * TOKENS), num_stages=AHEAD):
        token = program.to(tl.int64) * TOKENS + number
        row = token * (HEADS * PAIRS)
        at, of = row + line, 3 * row + line
        c, s = _angles(cos, sin, token, pair, inside, PAIRS)
        q_a, q_b, a, b, turned_a, turned_b = _gradient(
            d_q, product, at, of, of_head, q_weight_a, q_weight_b, c, s, eps, NORM, PAIRS, KIND, BITS
        )
        q_sum_a += q_a
        q_sum_b += q_b
        if NORM:
            q_scale_a += turned_a * a
            q_scale_b += turned_b * b
            q_shift_a += turned_a
            q_shift_b += turned_b
        k_a, k_b, a, b, turned_a, turned_b = _gradient(
            d_k, product, at, of + HEADS * PAIRS, of_head, k_weight_a, k_weight_b, c, s, eps, NORM, PAIRS, KIND, BITS
        )
        k_sum_a += k_a
        k_sum_b += k_b
        if NORM:
            k_scale_a += turned_a * a
            k_scale_b += turned_b * b
            k_shift_a += turned_a
            k_shift_b += turned_b
        v_a, v_b = _load(d_v, at, of_head, KIND, BITS)
        greatest = tl.maximum(tl.maximum(tl.abs(q_a), tl.abs(q_b)), tl.maximum(tl.abs(k_a), tl.abs(k_b)))
        scale = scale_of(tl.max(tl.maximum(greatest, tl.maximum(tl.abs(v_a), tl.abs(v_b)))))
        _store_pair(values, of, q_a, q_b, 1 / scale, of_head)
        _store_pair(values, of + HEADS * PAIRS, k_a, k_b, 1 / scale, of_head)
        _store_pair(values, of + 2 * HEADS * PAIRS, v_a, v_b, 1 / scale, of_head)
        tl.store(scales + token, scale)
    to = d_bias + program * (4 * HEADS * PAIRS) + 2 * line
    tl.store(to, q_sum_a, mask=of_head)
    tl.store(to + 1, q_sum_b, mask=of_head)
    tl.store(to + 2 * HEADS * PAIRS, k_sum_a, mask=of_head)
    tl.store(to + 2 * HEADS * PAIRS + 1, k_sum_b, mask=of_head)
    if NORM:
        for_norms = d_norms + program * (8 * PAIRS) + 2 * pair
        _store_sums(for_norms, q_scale_a, q_scale_b, inside)
        _store_sums(for_norms + 2 * PAIRS, q_shift_a, q_shift_b, inside)
        _store_sums(for_norms + 4 * PAIRS, k_scale_a, k_scale_b, inside)
        _store_sums(for_norms + 6 * PAIRS, k_shift_a, k_shift_b, inside)


@triton.jit
def _store_pair(values, at, a, b, times, here):
    """Both members of each pair in 8 bits."""
    to = values + 2 * at[:, :, None] + tl.arange(0, 2)[None, None, :]
    tl.store(to, tl.join(a * times, b * times).to(values.dtype.element_ty), mask=here[:, :, None])
