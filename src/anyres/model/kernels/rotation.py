"""Norm over the head dimension and rotation of queries and keys, in one pass; backward also the gradients' sums.

Layout: the product is (tokens, 3, heads, dim), as the linear map lays it out, its bias added. A head's neighbouring
channels (2i, 2i+1) are a pair that turns together: they are read and written as one word of twice the bits, so that
both are in one thread and nothing has to be exchanged. Values stay where they are.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Rows
from . import sums
from .float8 import scale_of

FORWARD = {"TOKENS": 4, "num_warps": 4}  # tokens of a program, one after the other
BACKWARD = {"TOKENS": 64, "num_warps": 2}
ROWS = {"TOKENS": 32, "AHEAD": 3, "num_warps": 4}  # of the backward in 8 bits

KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Norms(NamedTuple):
    """Weights and biases of the norms, (dim,) each.

    Attributes:
        q_weight: of queries.
        q_bias: likewise.
        k_weight: of keys.
        k_bias: likewise.
    """

    q_weight: Tensor
    q_bias: Tensor
    k_weight: Tensor
    k_bias: Tensor


def forward(
    product: Tensor, norms: Norms | None, cos: Tensor, sin: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 3·heads·dim), (tokens, pairs) float32 tables → q, k, v, each (tokens, heads, dim); v is a view."""
    tokens, dim = len(product), product.shape[1] // (3 * heads)
    out = torch.empty(2, tokens, heads, dim, device=product.device, dtype=product.dtype)
    _heads_forward[(triton.cdiv(tokens, FORWARD["TOKENS"]), 2)](
        _words(product), *(norms or (cos,) * 4), cos, sin, _words(out), tokens, eps,
        NORM=norms is not None, **_tile(product, heads, dim), **FORWARD,
    )  # fmt: skip
    return out[0], out[1], product.view(tokens, 3, heads, dim)[:, 2]


def backward(
    d_q: Tensor,
    d_k: Tensor,
    product: Tensor,
    norms: Norms | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    d_product: Tensor,
    d_bias: Tensor,
) -> Tensor | None:
    """From the gradients of q and k, each (tokens, heads, dim); that of values is what the product's third is already.

    Args:
        d_q: of queries.
        d_k: of keys.
        product: (tokens, 3·heads·dim).
        norms: as in the forward.
        cos: likewise.
        sin: likewise.
        eps: likewise.
        d_product: like `product`; its first two thirds are written here.
        d_bias: of the product's bias, (3·heads·dim,); likewise.

    Returns:
        The gradients of the norms, (4, dim) in the order of `Norms` and in their dtype, or None.
    """
    tokens, heads, dim = d_q.shape
    programs = triton.cdiv(tokens, BACKWARD["TOKENS"])
    sum_bias = torch.empty(programs, 2, heads, dim, device=product.device, dtype=torch.float32)
    sum_norms = torch.empty(programs, 4, dim, device=product.device, dtype=torch.float32)
    q_weight, k_weight = (norms.q_weight, norms.k_weight) if norms else (cos, cos)
    _heads_backward[(programs, 2)](
        _words(d_q.contiguous()), _words(d_k.contiguous()), _words(product), q_weight, k_weight, cos, sin,
        _words(d_product), sum_bias, sum_norms, tokens, eps,
        NORM=norms is not None, **_tile(product, heads, dim), **BACKWARD,
    )  # fmt: skip
    return _sums(sum_bias, sum_norms, d_bias, q_weight.dtype if norms else None)


def backward_rows(
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
    """The same with the product's gradient in 8 bits, of all three parts; `d_v` is (tokens, heads, dim), too."""
    tokens, heads, dim = d_q.shape
    rows, programs = Rows.empty(product.shape, product.device), triton.cdiv(tokens, ROWS["TOKENS"])
    sum_bias = torch.empty(programs, 2, heads, dim, device=product.device, dtype=torch.float32)
    sum_norms = torch.empty(programs, 4, dim, device=product.device, dtype=torch.float32)
    q_weight, k_weight = (norms.q_weight, norms.k_weight) if norms else (cos, cos)
    _heads_backward_rows[(programs,)](
        *(_words(one.contiguous()) for one in (d_q, d_k, d_v, product)), q_weight, k_weight, cos, sin,
        *rows, sum_bias, sum_norms, tokens, eps,
        NORM=norms is not None, **_tile(product, heads, dim), **ROWS,
    )  # fmt: skip
    return rows, _sums(sum_bias, sum_norms, d_bias, q_weight.dtype if norms else None)


def _sums(sum_bias: Tensor, sum_norms: Tensor, d_bias: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """Over the programs: the bias's first two thirds, written into `d_bias`, and the norms', if they have a dtype."""
    sums.over_rows(sum_bias, d_bias[: sum_bias[0].numel()])
    return sums.over_rows(sum_norms, torch.empty_like(sum_norms[0], dtype=dtype)) if dtype else None


def _words(tensor: Tensor) -> Tensor:
    """Pairs of channels as integers."""
    return tensor.view(torch.int64 if tensor.dtype == torch.float32 else torch.int32)


def _tile(like: Tensor, heads: int, dim: int) -> dict[str, Any]:
    return {
        "KIND": KINDS[like.dtype],
        "BITS": 8 * like.element_size(),
        "HEADS": heads,
        "PAIRS": dim // 2,
        "ALL_HEADS": triton.next_power_of_2(heads),
        "ALL_PAIRS": triton.next_power_of_2(dim // 2),
    }


@triton.jit
def _load(words, at, here, KIND: tl.constexpr, BITS: tl.constexpr):
    """Both members of each pair, float32."""
    INT: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
    word = tl.load(words + at, mask=here, other=0)
    a = word.to(INT).to(KIND, bitcast=True).to(tl.float32)
    b = (word >> BITS).to(INT).to(KIND, bitcast=True).to(tl.float32)
    return a, b


@triton.jit
def _store(words, at, a, b, here, KIND: tl.constexpr, BITS: tl.constexpr):
    INT: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
    WORD: tl.constexpr = tl.int32 if BITS == 16 else tl.int64
    LOW: tl.constexpr = 0xFFFF if BITS == 16 else 0xFFFFFFFF
    low = a.to(KIND).to(INT, bitcast=True).to(WORD) & LOW
    high = b.to(KIND).to(INT, bitcast=True).to(WORD) << BITS
    tl.store(words + at, low | high, mask=here)


@triton.jit
def _normed(a, b, here, PAIRS: tl.constexpr, eps):
    """The pairs normalised over the channels of each head, and the inverse spread of each."""
    mean = tl.sum(a + b, axis=1) / (2 * PAIRS)
    a = tl.where(here, a - mean[:, None], 0.0)
    b = tl.where(here, b - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(a * a + b * b, axis=1) / (2 * PAIRS) + eps)
    return a * inverse[:, None], b * inverse[:, None], inverse


@triton.jit
def _vectors(values, pair, inside):
    """A vector over channels as the two members of its pairs."""
    a = tl.load(values + 2 * pair, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(values + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
    return a[None, :], b[None, :]


@triton.jit
def _angles(cos, sin, token, pair, here, PAIRS: tl.constexpr):
    """Cosines and sines of a token's pairs."""
    at = token * PAIRS + pair
    return tl.load(cos + at, mask=here, other=0.0)[None, :], tl.load(sin + at, mask=here, other=0.0)[None, :]


@triton.jit
def _heads_forward(
    product, q_weight, q_bias, k_weight, k_bias, cos, sin, out, tokens, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr, HEADS: tl.constexpr,
    PAIRS: tl.constexpr, ALL_HEADS: tl.constexpr, ALL_PAIRS: tl.constexpr,
):  # fmt: skip
    first, part = tl.program_id(0) * TOKENS, tl.program_id(1)
    head, pair = tl.arange(0, ALL_HEADS), tl.arange(0, ALL_PAIRS)
    inside = pair < PAIRS
    line = head[:, None] * PAIRS + pair[None, :]  # in words
    of_head = (head < HEADS)[:, None] & inside[None, :]
    out += part * tokens.to(tl.int64) * (HEADS * PAIRS)
    if NORM:
        weight_a, weight_b = _vectors(k_weight if part else q_weight, pair, inside)
        shift_a, shift_b = _vectors(k_bias if part else q_bias, pair, inside)
    for number in tl.range(0, tl.minimum(TOKENS, tokens - first), num_stages=3):
        token = first.to(tl.int64) + number
        row = token * (HEADS * PAIRS)
        a, b = _load(product, 3 * row + part * (HEADS * PAIRS) + line, of_head, KIND, BITS)
        if NORM:
            a, b, _ = _normed(a, b, of_head, PAIRS, eps)
            a = a * weight_a + shift_a
            b = b * weight_b + shift_b
        c, s = _angles(cos, sin, token, pair, inside, PAIRS)
        _store(out, row + line, a * c - b * s, a * s + b * c, of_head, KIND, BITS)


@triton.jit
def _gradient(
    d_out, product, at, of, of_head, weight_a, weight_b, c, s, eps,
    NORM: tl.constexpr, PAIRS: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """A token's queries or keys: the product's gradient, what the norm gave before its weight, and the latter's."""
    d_a, d_b = _load(d_out, at, of_head, KIND, BITS)
    d_a, d_b = d_a * c + d_b * s, d_b * c - d_a * s
    a, b, turned_a, turned_b = d_a, d_b, d_a, d_b
    if NORM:
        a, b = _load(product, of, of_head, KIND, BITS)
        a, b, inverse = _normed(a, b, of_head, PAIRS, eps)
        d_a *= weight_a
        d_b *= weight_b
        mean = tl.sum(d_a + d_b, axis=1) / (2 * PAIRS)
        along = tl.sum(d_a * a + d_b * b, axis=1) / (2 * PAIRS)
        d_a = (d_a - mean[:, None] - a * along[:, None]) * inverse[:, None]
        d_b = (d_b - mean[:, None] - b * along[:, None]) * inverse[:, None]
        d_a, d_b = tl.where(of_head, d_a, 0.0), tl.where(of_head, d_b, 0.0)
    return d_a, d_b, a, b, turned_a, turned_b


@triton.jit
def _heads_backward(
    d_q, d_k, product, q_weight, k_weight, cos, sin, d_product, d_bias, d_norms, tokens, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr, HEADS: tl.constexpr,
    PAIRS: tl.constexpr, ALL_HEADS: tl.constexpr, ALL_PAIRS: tl.constexpr,
):  # fmt: skip
    program, part = tl.program_id(0), tl.program_id(1)
    head, pair = tl.arange(0, ALL_HEADS), tl.arange(0, ALL_PAIRS)
    inside = pair < PAIRS
    line = head[:, None] * PAIRS + pair[None, :]  # in words
    of_head = (head < HEADS)[:, None] & inside[None, :]
    d_out = d_k if part else d_q
    # sums over the program's tokens, kept a head apart to the end
    sum_a, sum_b = tl.zeros((ALL_HEADS, ALL_PAIRS), tl.float32), tl.zeros((ALL_HEADS, ALL_PAIRS), tl.float32)
    weight_a, weight_b = sum_a, sum_b
    if NORM:
        weight_a, weight_b = _vectors(k_weight if part else q_weight, pair, inside)
        scale_a, scale_b = tl.zeros_like(sum_a), tl.zeros_like(sum_a)
        shift_a, shift_b = tl.zeros_like(sum_a), tl.zeros_like(sum_a)
    for number in tl.range(0, tl.minimum(TOKENS, tokens - program * TOKENS), num_stages=3):
        token = program.to(tl.int64) * TOKENS + number
        row = token * (HEADS * PAIRS)
        of = 3 * row + part * (HEADS * PAIRS) + line
        c, s = _angles(cos, sin, token, pair, inside, PAIRS)
        d_a, d_b, a, b, turned_a, turned_b = _gradient(
            d_out, product, row + line, of, of_head, weight_a, weight_b, c, s, eps, NORM, PAIRS, KIND, BITS
        )
        if NORM:
            scale_a += turned_a * a
            scale_b += turned_b * b
            shift_a += turned_a
            shift_b += turned_b
        sum_a += d_a
        sum_b += d_b
        _store(d_product, of, d_a, d_b, of_head, KIND, BITS)
    to = d_bias + (program * 2 + part) * (2 * HEADS * PAIRS) + 2 * line
    tl.store(to, sum_a, mask=of_head)
    tl.store(to + 1, sum_b, mask=of_head)
    if NORM:
        for_norms = d_norms + (program * 4 + 2 * part) * (2 * PAIRS) + 2 * pair
        _store_sums(for_norms, scale_a, scale_b, inside)
        _store_sums(for_norms + 2 * PAIRS, shift_a, shift_b, inside)


@triton.jit
def _heads_backward_rows(
    d_q, d_k, d_v, product, q_weight, k_weight, cos, sin, values, scales, d_bias, d_norms, tokens, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr, AHEAD: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, ALL_HEADS: tl.constexpr, ALL_PAIRS: tl.constexpr,
):  # fmt: skip
    """Queries, keys and values of a token together, since their row has one scale."""
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


@triton.jit
def _store_sums(to, a, b, inside):
    tl.store(to, tl.sum(a, axis=0), mask=inside)
    tl.store(to + 1, tl.sum(b, axis=0), mask=inside)
