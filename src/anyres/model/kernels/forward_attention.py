"""Attention straight from the product of queries, keys and values, for passes that keep nothing for a backward.

Queries are normalised and rotated where they are loaded, so that they never go to memory; so are keys, where no more
than `SHORT` tokens attend to each other. Longer images have their keys rotated first, once and not once a tile. The
result is that of `rotation` and `attention` one after the other, to rounding.

Whether keys need masks is a matter of the pack's static shape: at an equal shape, an image has equal bits in any pack.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...packing.pack import PackShape
from .attention import _precision, _products, _rows, _save, _scale, _shape
from .pieces import cut
from .rotation import KINDS, Norms, _words

SHORT = 64  # tokens of an image that one program holds whole
STEP = 64  # keys at once


class Plan(NamedTuple):
    """A pack cut for `forward`.

    Attributes:
        bounds: (tiles, 3) int32: first token, end, row of the image; first = end in tiles that are not used.
        cu_seqlens: (images + 1,) int32.
        whole: whether a tile is an image.
        even: whether every image is a multiple of `STEP` tokens.
    """

    bounds: Tensor
    cu_seqlens: Tensor
    whole: bool
    even: bool


def plan(cu_seqlens: Tensor, shape: PackShape) -> Plan:
    """Cut a pack; never waits for the device.

    Args:
        cu_seqlens: of its segments.
        shape: its static shape.
    """
    tile = 64 if shape.max_seqlen <= SHORT else 128
    # each image's last tile may be a rest, but no image has more tiles than the longest
    tiles = min(-(-shape.tokens // tile) + shape.images, shape.images * -(-shape.max_seqlen // tile))
    full = shape.images * shape.max_seqlen == shape.tokens  # then every image has that length
    return Plan(
        cut(cu_seqlens, shape.tokens, tile).bounds[:tiles],
        cu_seqlens,
        whole=shape.max_seqlen <= SHORT,
        even=full and shape.max_seqlen % STEP == 0,
    )


def forward(
    product: Tensor, norms: Norms | None, cos: Tensor, sin: Tensor, heads: int, eps: float, plan: Plan
) -> Tensor:
    """(tokens, 3·heads·dim) with its bias, (tokens, pairs) float32 tables → attended values, (tokens, heads, dim)."""
    tokens, dim = len(product), product.shape[1] // (3 * heads)
    out = torch.empty(tokens, heads, dim, device=product.device, dtype=product.dtype)
    values = product.view(tokens, 3, heads, dim)[:, 2]
    words = _words(product)
    weights = [_words(weight) for weight in norms] if norms else [words] * 4
    scale, precision = _scale(dim), _precision(values)
    # under autocast the norms' weights stay float32
    kinds = {"KIND": KINDS[product.dtype], "NORM": None if norms is None else KINDS[norms.q_weight.dtype]}
    constants = _shape(values) | kinds
    if plan.whole:
        _attend_whole[(heads, len(plan.bounds))](
            words, values, *weights, cos, sin, out, plan.bounds, scale, eps,
            EVEN=plan.even, TILE=SHORT, **constants, PRECISION=precision, num_warps=4,
        )  # fmt: skip
        return out
    keys = torch.empty_like(out)
    _turn_keys[(heads, triton.cdiv(tokens, 64))](
        words, *weights[2:], cos, sin, keys, tokens, eps, TILE=64, **constants, num_warps=4
    )
    _attend_tiles[(heads, len(plan.bounds))](
        words, keys, values, *weights[:2], cos, sin, out, plan.bounds, plan.cu_seqlens, scale, eps,
        EVEN=plan.even, TILE=128, STEP=STEP, **constants, PRECISION=precision, num_warps=8,
        num_stages=3 if dim <= 128 else 1, maxnreg=128,
    )  # fmt: skip
    return out


@triton.jit
def _pairs(words, at, mask, KIND: tl.constexpr):
    """Both members of pairs that are adjacent in memory, float32."""
    word = tl.load(words + at, mask=mask, other=0)
    if tl.bfloat16 == KIND:  # the upper half of a float32: two operations instead of four
        a = (word << 16).to(tl.float32, bitcast=True)
        b = (word & -65536).to(tl.float32, bitcast=True)
    else:
        BITS: tl.constexpr = 32 if tl.float32 == KIND else 16
        INT: tl.constexpr = tl.int32 if BITS == 32 else tl.int16
        a = word.to(INT).to(KIND, bitcast=True).to(tl.float32)
        b = (word >> BITS).to(INT).to(KIND, bitcast=True).to(tl.float32)
    return a, b


@triton.jit
def _scaled(a, b, weight, bias, pair, PAIRS: tl.constexpr, KIND: tl.constexpr):
    """The norm's weight and bias applied to pairs."""
    weight_a, weight_b = _pairs(weight, pair, pair < PAIRS, KIND)
    bias_a, bias_b = _pairs(bias, pair, pair < PAIRS, KIND)
    return a * weight_a[None, :] + bias_a[None, :], b * weight_b[None, :] + bias_b[None, :]


@triton.jit
def _rotated(a, b, cos, sin, at, mask, KIND: tl.constexpr, WIDTH: tl.constexpr):
    """Pairs turned by their angles, and laid side by side: (tokens, WIDTH)."""
    c = tl.load(cos + at, mask=mask, other=0.0)
    s = tl.load(sin + at, mask=mask, other=0.0)
    return tl.reshape(tl.join((a * c - b * s).to(KIND), (a * s + b * c).to(KIND)), (a.shape[0], WIDTH))


@triton.jit
def _turned(
    words, row, inside, head, weight, bias, cos, sin, eps,
    KIND: tl.constexpr, NORM: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """One head of some tokens of the product, normalised and rotated, in two parts as `_rows` gives them."""
    PAIRS: tl.constexpr = DIM // 2
    at = row[:, None].to(tl.int64) * (3 * HEADS * PAIRS) + head * PAIRS
    turn = row[:, None].to(tl.int64) * PAIRS
    pair1 = tl.arange(0, FIRST // 2)
    mask1 = inside[:, None] & (pair1 < PAIRS)[None, :]
    a1, b1 = _pairs(words, at + pair1[None, :], mask1, KIND)
    if REST:
        pair2 = FIRST // 2 + tl.arange(0, REST // 2)
        mask2 = inside[:, None] & (pair2 < PAIRS)[None, :]
        a2, b2 = _pairs(words, at + pair2[None, :], mask2, KIND)
    if NORM is not None:
        mean = tl.sum(a1 + b1, axis=1)
        if REST:
            mean += tl.sum(a2 + b2, axis=1)
        mean = mean[:, None] / DIM
        a1 = tl.where(mask1, a1 - mean, 0.0)
        b1 = tl.where(mask1, b1 - mean, 0.0)
        square = tl.sum(a1 * a1 + b1 * b1, axis=1)
        if REST:
            a2 = tl.where(mask2, a2 - mean, 0.0)
            b2 = tl.where(mask2, b2 - mean, 0.0)
            square += tl.sum(a2 * a2 + b2 * b2, axis=1)
        inverse = 1 / tl.sqrt(square[:, None] / DIM + eps)
        a1, b1 = _scaled(a1 * inverse, b1 * inverse, weight, bias, pair1, PAIRS, NORM)
        if REST:
            a2, b2 = _scaled(a2 * inverse, b2 * inverse, weight, bias, pair2, PAIRS, NORM)
    first = _rotated(a1, b1, cos, sin, turn + pair1[None, :], mask1, KIND, FIRST)
    rest = first
    if REST:
        rest = _rotated(a2, b2, cos, sin, turn + pair2[None, :], mask2, KIND, REST)
    return first, rest


@triton.jit
def _turn_keys(
    words, weight, bias, cos, sin, keys, tokens, eps,
    TILE: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, HEADS: tl.constexpr,
    DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = row < tokens
    k1, k2 = _turned(
        words + HEADS * (DIM // 2), row, inside, head, weight, bias, cos, sin, eps,
        KIND, NORM, HEADS, DIM, FIRST, REST,
    )  # fmt: skip
    _save(keys, row, inside, HEADS * DIM, head, k1, k2, DIM, FIRST, REST)


@triton.jit
def _attend_whole(
    words, values, q_weight, q_bias, k_weight, k_bias, cos, sin, out, bounds, scale, eps,
    EVEN: tl.constexpr, TILE: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr,
    HEADS: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """An image that is one tile: its weights are all there at once."""
    head, tile = tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    if start < end:
        row = start + tl.arange(0, TILE)
        inside = row < end
        k1, k2 = _turned(
            words + HEADS * (DIM // 2), row, inside, head, k_weight, k_bias, cos, sin, eps,
            KIND, NORM, HEADS, DIM, FIRST, REST,
        )  # fmt: skip
        q1, q2 = _turned(words, row, inside, head, q_weight, q_bias, cos, sin, eps, KIND, NORM, HEADS, DIM, FIRST, REST)
        v1, v2 = _rows(values, row, inside, 3 * HEADS * DIM, head, DIM, FIRST, REST)
        s = _products(q1, q2, k1, k2, REST, PRECISION)
        if not EVEN:
            s = tl.where(inside[None, :], s, float("-inf"))
        weights = tl.exp2(s * scale - (tl.max(s, axis=1) * scale)[:, None])
        inverse = 1 / tl.sum(weights, axis=1)
        weights = weights.to(v1.dtype)
        sum1 = tl.dot(weights, v1, input_precision=PRECISION) * inverse[:, None]
        sum2 = sum1
        if REST:
            sum2 = tl.dot(weights, v2, input_precision=PRECISION) * inverse[:, None]
        _save(out, row, inside, HEADS * DIM, head, sum1, sum2, DIM, FIRST, REST)


@triton.jit
def _attend_tiles(
    words, keys, values, q_weight, q_bias, cos, sin, out, bounds, cu_seqlens, scale, eps,
    EVEN: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, KIND: tl.constexpr,
    NORM: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries, over all keys of its image, which are rotated already."""
    head, tile = tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    image = tl.load(bounds + 3 * tile + 2)
    if start < end:
        first, last = tl.load(cu_seqlens + image), tl.load(cu_seqlens + image + 1)
        row = start + tl.arange(0, TILE)
        inside = row < end
        q1, q2 = _turned(words, row, inside, head, q_weight, q_bias, cos, sin, eps, KIND, NORM, HEADS, DIM, FIRST, REST)
        greatest = tl.full((TILE,), float("-inf"), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        sum1 = tl.zeros((TILE, FIRST), tl.float32)
        sum2 = tl.zeros((TILE, REST if REST else FIRST), tl.float32)
        for other in range(first, last, STEP):
            theirs = other + tl.arange(0, STEP)
            here = tl.full((STEP,), True, tl.int1) if EVEN else theirs < last
            k1, k2 = _rows(keys, theirs, here, HEADS * DIM, head, DIM, FIRST, REST)
            v1, v2 = _rows(values, theirs, here, 3 * HEADS * DIM, head, DIM, FIRST, REST)
            s = _products(q1, q2, k1, k2, REST, PRECISION)
            if not EVEN:
                s = tl.where(here[None, :], s, float("-inf"))
            now = tl.maximum(greatest, tl.max(s, axis=1) * scale)
            weights = tl.exp2(s * scale - now[:, None])
            kept = tl.exp2(greatest - now)
            greatest = now
            total = total * kept + tl.sum(weights, axis=1)
            weights = weights.to(v1.dtype)
            sum1 = tl.dot(weights, v1, sum1 * kept[:, None], input_precision=PRECISION)
            if REST:
                sum2 = tl.dot(weights, v2, sum2 * kept[:, None], input_precision=PRECISION)
        inverse = 1 / total
        _save(
            out, row, inside, HEADS * DIM, head, sum1 * inverse[:, None], sum2 * inverse[:, None], DIM, FIRST, REST
        )  # fmt: skip
