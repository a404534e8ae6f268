"""Bias, norm over the head dimension, and rotation of queries and keys, in one pass; values get their bias.

Layout: the product is (tokens, 3, heads, dim), as the linear map lays it out. A head's neighbouring channels (2i, 2i+1)
are a pair that turns together; the pairs of a tile are split into their first and second members.
"""

from typing import NamedTuple

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
    product: Tensor, bias: Tensor | None, norms: Norms | None, cos: Tensor, sin: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 3·heads·dim), (tokens, pairs) float32 tables → q, k, v, each (tokens, heads, dim) and contiguous."""
    tokens, dim = len(product), product.shape[1] // (3 * heads)
    out = torch.empty(3, tokens, heads, dim, device=product.device, dtype=product.dtype)
    _forward[(triton.cdiv(tokens, TOKENS),)](
        product, product if bias is None else bias, *(norms or (product,) * 4), cos, sin, out,
        tokens, heads, dim, eps, BIAS=bias is not None, NORM=norms is not None, TOKENS=TOKENS, **_tile(heads, dim),
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
    q_weight, k_weight = (norms.q_weight, norms.k_weight) if norms else (product, product)
    _backward[(programs,)](
        d_q.contiguous(), d_k.contiguous(), d_v.contiguous(), product, bias, q_weight, k_weight, cos, sin,
        d_product, d_bias, d_norms, tokens, heads, dim, eps,
        NORM=norms is not None, TOKENS=TOKENS, **_tile(heads, dim),
    )  # fmt: skip
    return Gradients(d_product, d_bias.sum(0).flatten(), d_norms.sum(0) if norms else None)


def _tile(heads: int, dim: int) -> dict[str, int]:
    return {"HEADS": triton.next_power_of_2(heads), "DIM": triton.next_power_of_2(dim), "num_warps": WARPS}


@triton.jit
def _turn(tile, cos, sin, HEADS: tl.constexpr, DIM: tl.constexpr):
    """(a, b) → (a·cos − b·sin, a·sin + b·cos) for every pair of (heads, dim)."""
    a, b = tl.split(tl.reshape(tile, (HEADS, DIM // 2, 2)))
    return tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (HEADS, DIM))


@triton.jit
def _normed(tile, here, dim, eps):
    """The tile normalised over its last axis, and the inverse spread of each row."""
    centred = tl.where(here, tile - (tl.sum(tile, axis=1) / dim)[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=1) / dim + eps)
    return centred * inverse[:, None], inverse


@triton.jit
def _forward(
    product, bias, q_weight, q_bias, k_weight, k_bias, cos, sin, out, tokens, heads, dim, eps,
    BIAS: tl.constexpr, NORM: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    head, channel, pair = tl.arange(0, HEADS), tl.arange(0, DIM), tl.arange(0, DIM // 2)
    here = (head < heads)[:, None] & (channel < dim)[None, :]
    at = head[:, None] * dim + channel[None, :]
    size = heads * dim
    start = tl.program_id(0).to(tl.int64) * TOKENS
    for token in range(start, tl.minimum(start + TOKENS, tokens)):
        turn = token * (dim // 2) + pair
        c = tl.load(cos + turn, mask=pair < dim // 2, other=0.0)[None, :]
        s = tl.load(sin + turn, mask=pair < dim // 2, other=0.0)[None, :]
        for part in tl.static_range(3):
            from_ = token * 3 * size + part * size + at
            tile = tl.load(product + from_, mask=here, other=0.0).to(tl.float32)
            if BIAS:
                tile += tl.load(bias + part * size + at, mask=here, other=0.0).to(tl.float32)
            if part < 2:
                if NORM:
                    weight, shift = (q_weight, q_bias) if part == 0 else (k_weight, k_bias)
                    w = tl.load(weight + channel, mask=channel < dim, other=0.0).to(tl.float32)
                    b = tl.load(shift + channel, mask=channel < dim, other=0.0).to(tl.float32)
                    tile = _normed(tile, here, dim, eps)[0] * w[None, :] + b[None, :]
                tile = _turn(tile, c, s, HEADS, DIM)
            to = (part * tokens + token) * size + at
            tl.store(out + to, tile.to(out.dtype.element_ty), mask=here)


@triton.jit
def _backward(
    d_q, d_k, d_v, product, bias, q_weight, k_weight, cos, sin, d_product, d_bias, d_norms,
    tokens, heads, dim, eps,
    NORM: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    head, channel, pair = tl.arange(0, HEADS), tl.arange(0, DIM), tl.arange(0, DIM // 2)
    here = (head < heads)[:, None] & (channel < dim)[None, :]
    at = head[:, None] * dim + channel[None, :]
    size = heads * dim
    start = tl.program_id(0).to(tl.int64) * TOKENS
    for part in tl.static_range(3):
        d_out = d_q if part == 0 else (d_k if part == 1 else d_v)
        sum_bias = tl.zeros((HEADS, DIM), tl.float32)
        sum_weight = tl.zeros((HEADS, DIM), tl.float32)
        sum_shift = tl.zeros((HEADS, DIM), tl.float32)
        b = tl.load(bias + part * size + at, mask=here, other=0.0).to(tl.float32)
        if NORM:
            w = tl.load((q_weight if part == 0 else k_weight) + channel, mask=channel < dim, other=0.0).to(tl.float32)
        for token in range(start, tl.minimum(start + TOKENS, tokens)):
            grad = tl.load(d_out + token * size + at, mask=here, other=0.0).to(tl.float32)
            of = token * 3 * size + part * size + at
            if part < 2:
                turn = token * (dim // 2) + pair
                c = tl.load(cos + turn, mask=pair < dim // 2, other=0.0)[None, :]
                s = tl.load(sin + turn, mask=pair < dim // 2, other=0.0)[None, :]
                grad = _turn(grad, c, -s, HEADS, DIM)
                if NORM:
                    value = tl.load(product + of, mask=here, other=0.0).to(tl.float32) + b
                    normed, inverse = _normed(value, here, dim, eps)
                    sum_shift += grad
                    sum_weight += grad * normed
                    grad *= w[None, :]
                    mean = tl.sum(grad, axis=1) / dim
                    along = tl.sum(grad * normed, axis=1) / dim
                    grad = tl.where(here, (grad - mean[:, None] - normed * along[:, None]) * inverse[:, None], 0.0)
            sum_bias += grad
            tl.store(d_product + of, grad.to(d_product.dtype.element_ty), mask=here)
        to = tl.program_id(0).to(tl.int64)
        tl.store(d_bias + to * 3 * size + part * size + at, sum_bias, mask=here)
        if NORM and part < 2:
            line = d_norms + to * 4 * dim + 2 * part * dim + channel
            tl.store(line, tl.sum(sum_weight, axis=0), mask=channel < dim)
            tl.store(line + dim, tl.sum(sum_shift, axis=0), mask=channel < dim)
