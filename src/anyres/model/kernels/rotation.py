"""Bias, norm over the head dimension, and rotation of queries and keys, in one pass; values get their bias.

Layout: the product is (tokens, 3, heads, dim), as the linear map lays it out. A head's neighbouring channels (2i, 2i+1)
are a pair that turns together: they are read and written as one word of twice the bits, so that both are in one thread
and nothing has to be exchanged.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, WARPS = 32, 4  # tokens of a program, one at a time, and its warps


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
    product: Tensor, bias: Tensor, norms: Norms | None, cos: Tensor, sin: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 3·heads·dim), (tokens, pairs) float32 tables → q, k, v, each (tokens, heads, dim) and contiguous."""
    tokens, dim = len(product), product.shape[1] // (3 * heads)
    out = torch.empty(3, tokens, heads, dim, device=product.device, dtype=product.dtype)
    _heads_forward[(triton.cdiv(tokens, TOKENS),)](
        _words(product), bias, *(norms or (bias,) * 4), cos, sin, _words(out),
        tokens, heads, dim, eps, NORM=norms is not None, TOKENS=TOKENS, **_tile(product, heads, dim),
    )  # fmt: skip
    q, k, v = out.unbind(0)
    return q, k, v


class Gradients(NamedTuple):
    """Of a forward pass.

    Attributes:
        product: (tokens, 3·heads·dim).
        bias: (3·heads·dim,) float32.
        norms: (4, dim) float32 in the order of `Norms`, or None.
    """

    product: Tensor
    bias: Tensor
    norms: Tensor | None


def backward(
    d_q: Tensor,
    d_k: Tensor,
    d_v: Tensor,
    product: Tensor,
    bias: Tensor,
    norms: Norms | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> Gradients:
    """From the gradients of q, k and v, each (tokens, heads, dim)."""
    tokens, heads, dim = d_q.shape
    d_product = torch.empty_like(product)
    programs = triton.cdiv(tokens, TOKENS)
    d_bias = torch.empty(programs, 3, heads, dim, device=product.device, dtype=torch.float32)
    d_norms = torch.empty(programs, 4, dim, device=product.device, dtype=torch.float32)
    q_weight, k_weight = (norms.q_weight, norms.k_weight) if norms else (bias, bias)
    _heads_backward[(programs,)](
        *(_words(part.contiguous()) for part in (d_q, d_k, d_v)), _words(product), bias, q_weight, k_weight, cos, sin,
        _words(d_product), d_bias, d_norms, tokens, heads, dim, eps,
        NORM=norms is not None, TOKENS=TOKENS, **_tile(product, heads, dim),
    )  # fmt: skip
    return Gradients(d_product, d_bias.sum(0).flatten(), d_norms.sum(0) if norms else None)


def _words(tensor: Tensor) -> Tensor:
    """Pairs of channels as integers."""
    return tensor.view(torch.int64 if tensor.dtype == torch.float32 else torch.int32)


def _tile(like: Tensor, heads: int, dim: int) -> dict[str, Any]:
    kinds = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return {
        "KIND": kinds[like.dtype],
        "BITS": 8 * like.element_size(),
        "HEADS": triton.next_power_of_2(heads),
        "PAIRS": triton.next_power_of_2(dim // 2),
        "num_warps": WARPS,
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
def _normed(a, b, here, dim, eps):
    """The pairs normalised over each row's channels, and the inverse spread of each row."""
    mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1)) / dim
    a = tl.where(here, a - mean[:, None], 0.0)
    b = tl.where(here, b - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / dim + eps)
    return a * inverse[:, None], b * inverse[:, None], inverse


@triton.jit
def _vectors(values, pair, inside):
    """A vector over channels as the two members of its pairs."""
    a = tl.load(values + 2 * pair, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(values + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def _heads_forward(
    product, bias, q_weight, q_bias, k_weight, k_bias, cos, sin, out, tokens, heads, dim, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr,
    KIND: tl.constexpr, BITS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    head, pair = tl.arange(0, HEADS), tl.arange(0, PAIRS)
    pairs = dim // 2
    inside = pair < pairs
    here = (head < heads)[:, None] & inside[None, :]
    at = head[:, None] * pairs + pair[None, :]  # in words
    size = heads * pairs
    start = tl.program_id(0).to(tl.int64) * TOKENS
    for part in tl.static_range(3):
        bias_a, bias_b = _vectors(bias + 2 * part * size, at, here)
        if NORM and part < 2:
            weight_a, weight_b = _vectors(q_weight if part == 0 else k_weight, pair, inside)
            shift_a, shift_b = _vectors(q_bias if part == 0 else k_bias, pair, inside)
        for token in range(start, tl.minimum(start + TOKENS, tokens)):
            a, b = _load(product, token * 3 * size + part * size + at, here, KIND, BITS)
            a += bias_a
            b += bias_b
            if part < 2:
                if NORM:
                    a, b, _ = _normed(a, b, here, dim, eps)
                    a = a * weight_a[None, :] + shift_a[None, :]
                    b = b * weight_b[None, :] + shift_b[None, :]
                c = tl.load(cos + token * pairs + pair, mask=inside, other=0.0)[None, :]
                s = tl.load(sin + token * pairs + pair, mask=inside, other=0.0)[None, :]
                a, b = a * c - b * s, a * s + b * c
            _store(out, (part * tokens + token) * size + at, a, b, here, KIND, BITS)


@triton.jit
def _heads_backward(
    d_q, d_k, d_v, product, bias, q_weight, k_weight, cos, sin, d_product, d_bias, d_norms, tokens, heads, dim, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr,
    KIND: tl.constexpr, BITS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    head, pair = tl.arange(0, HEADS), tl.arange(0, PAIRS)
    pairs = dim // 2
    inside = pair < pairs
    here = (head < heads)[:, None] & inside[None, :]
    at = head[:, None] * pairs + pair[None, :]  # in words
    size = heads * pairs
    program = tl.program_id(0).to(tl.int64)
    start = program * TOKENS
    for part in tl.static_range(3):
        d_out = d_q if part == 0 else (d_k if part == 1 else d_v)
        bias_a, bias_b = _vectors(bias + 2 * part * size, at, here)
        sum_a, sum_b = tl.zeros((HEADS, PAIRS), tl.float32), tl.zeros((HEADS, PAIRS), tl.float32)
        if NORM and part < 2:
            weight_a, weight_b = _vectors(q_weight if part == 0 else k_weight, pair, inside)
            scale_a, scale_b = tl.zeros((PAIRS,), tl.float32), tl.zeros((PAIRS,), tl.float32)
            shift_a, shift_b = tl.zeros((PAIRS,), tl.float32), tl.zeros((PAIRS,), tl.float32)
        for token in range(start, tl.minimum(start + TOKENS, tokens)):
            d_a, d_b = _load(d_out, token * size + at, here, KIND, BITS)
            of = token * 3 * size + part * size + at
            if part < 2:
                c = tl.load(cos + token * pairs + pair, mask=inside, other=0.0)[None, :]
                s = tl.load(sin + token * pairs + pair, mask=inside, other=0.0)[None, :]
                d_a, d_b = d_a * c + d_b * s, d_b * c - d_a * s
                if NORM:
                    a, b = _load(product, of, here, KIND, BITS)
                    a, b, inverse = _normed(a + bias_a, b + bias_b, here, dim, eps)
                    shift_a += tl.sum(d_a, axis=0)
                    shift_b += tl.sum(d_b, axis=0)
                    scale_a += tl.sum(d_a * a, axis=0)
                    scale_b += tl.sum(d_b * b, axis=0)
                    d_a *= weight_a[None, :]
                    d_b *= weight_b[None, :]
                    mean = (tl.sum(d_a, axis=1) + tl.sum(d_b, axis=1)) / dim
                    along = (tl.sum(d_a * a, axis=1) + tl.sum(d_b * b, axis=1)) / dim
                    d_a = tl.where(here, (d_a - mean[:, None] - a * along[:, None]) * inverse[:, None], 0.0)
                    d_b = tl.where(here, (d_b - mean[:, None] - b * along[:, None]) * inverse[:, None], 0.0)
            sum_a += d_a
            sum_b += d_b
            _store(d_product, of, d_a, d_b, here, KIND, BITS)
        line = d_bias + (program * 3 + part) * 2 * size + 2 * at
        tl.store(line, sum_a, mask=here)
        tl.store(line + 1, sum_b, mask=here)
        if NORM and part < 2:
            line = d_norms + (program * 4 + 2 * part) * dim + 2 * pair
            tl.store(line, scale_a, mask=inside)
            tl.store(line + 1, scale_b, mask=inside)
            tl.store(line + dim, shift_a, mask=inside)
            tl.store(line + dim + 1, shift_b, mask=inside)
