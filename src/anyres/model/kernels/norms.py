"""Gate, residual and modulated norm in one pass over the tokens, and in one backward.

`forward` reads x (and f) once and writes x' (and h) once; `backward` reads four tensors and writes two. A token's mean
and spread are kept for the backward.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Rows
from .float8 import cut_width, store_row
from .pieces import Pieces, sums_by_image, weighted_sum

FORWARD = {"num_warps": 2}
# loads are begun so many tokens ahead
BACKWARD = {"AHEAD": 4, "num_warps": 4}
BACKWARD_ROWS = {"AHEAD": 1, "num_warps": 4, "maxnreg": 128}  # where a gradient is written in 8 bits


class Addend(NamedTuple):
    """What is added to the residual stream: gate·(f + bias).

    Attributes:
        f: (tokens, width), the linear map's product.
        bias: (width,) of that map.
        gate: (images, width).
    """

    f: Tensor
    bias: Tensor
    gate: Tensor


class Affine(NamedTuple):
    """What follows the norm: n·(1 + scale) + shift, each (images, width)."""

    shift: Tensor
    scale: Tensor


class Normed(NamedTuple):
    """Of a forward pass.

    Attributes:
        x: (tokens, width), with the addend.
        h: likewise, what the affine gives; None without one, or where it is there in 8 bits.
        spread: (tokens, 2) float32, the mean of x and the inverse of its spread, where there is an affine.
    """

    x: Tensor
    h: Tensor | None
    spread: Tensor


def forward(
    x: Tensor, addend: Addend | None, affine: Affine | None, image_index: Tensor, eps: float, rows: Rows | None = None
) -> Normed:
    """X' = x + gate·(f + bias), and h = norm(x')·(1 + scale) + shift; x' is x itself without an addend.

    `image_index` is the row of each token's image. Where `rows` are given, h is written into them, in 8 bits.
    """
    x = x.contiguous()
    out = torch.empty_like(x) if addend else x
    h = torch.empty_like(x) if affine and rows is None else None
    f, bias, gate = _contiguous(addend) if addend else (x, x, x)
    shift, scale = affine or (x, x)
    spread = torch.empty(len(x), 2, device=x.device, dtype=torch.float32)
    _norm_forward[(len(x),)](
        x, f, bias, gate, shift, scale, out, x if h is None else h, *(rows or (x, x)), spread, image_index,
        x.shape[1], gate.stride(0), shift.stride(0), scale.stride(0), eps,
        ADDEND=addend is not None, NORM=affine is not None, EIGHT=rows is not None, **cut_width(x.shape[1]), **FORWARD,
    )  # fmt: skip
    return Normed(out, h, spread)


class Gradients(NamedTuple):
    """Of a forward pass; None where it had no such input.

    Attributes:
        x: (tokens, width).
        f: (tokens, width); None, too, where it is there in 8 bits alone.
        bias: (width,), in its dtype.
        gate: (images, width), likewise.
        shift: (images, width), likewise.
        scale: (images, width), likewise.
    """

    x: Tensor
    f: Tensor | None
    bias: Tensor | None
    gate: Tensor | None
    shift: Tensor | None
    scale: Tensor | None


def backward(
    d_out: Tensor,
    d_h: Tensor | None,
    out: Tensor,
    spread: Tensor,
    addend: Addend | None,
    affine: Affine | None,
    pieces: Pieces,
    rows: Rows | None = None,
    *,
    keep: bool = True,
) -> Gradients:
    """From the gradients of x' and h.

    Args:
        d_out: of x', (tokens, width).
        d_h: of h, likewise.
        out: x', which only the norm needs.
        spread: of x', likewise.
        addend: as in the forward.
        affine: likewise.
        pieces: of the pack.
        rows: where the gradient of f is also written, in 8 bits.
        keep: whether it is wanted as it is, too.
    """
    d_out = d_out.contiguous()
    width = d_out.shape[1]
    d_x = torch.empty_like(d_out) if affine else d_out
    d_f = torch.empty_like(d_out) if addend and keep else None
    f, bias, gate = _contiguous(addend) if addend else (d_out, d_out, d_out)
    scale = affine.scale if affine else d_out
    values = 2 * (addend is not None) + 2 * (affine is not None)
    partial = torch.empty(len(pieces.bounds), values, width, device=d_out.device, dtype=torch.float32)
    main = triton.next_power_of_2(width) // 2  # and the rest in another, of which no less is left
    _norm_backward[(len(pieces.bounds),)](
        d_out, d_out if d_h is None else d_h.contiguous(), out, spread, f, bias, gate, scale,
        d_x, d_out if d_f is None else d_f, *(rows or (d_out, d_out)), partial, pieces.bounds,
        width, gate.stride(0), scale.stride(0),
        ADDEND=addend is not None, NORM=affine is not None, EIGHT=rows is not None, KEEP=keep,
        MAIN=main, REST=triton.next_power_of_2(width - main), **(BACKWARD_ROWS if rows else BACKWARD),
    )  # fmt: skip
    summed, d_addend = sums_by_image(partial, pieces, scale.dtype if addend is None else gate.dtype)
    sums = list(summed.unbind(1))
    d_shift, d_scale = (sums.pop(0), sums.pop(0)) if affine else (None, None)
    if addend is None:
        return Gradients(d_x, None, None, None, d_shift, d_scale)
    # f's gradient is gate·dx, so the bias's is the sum over images of gate·(sum of dx)
    d_bias = weighted_sum(addend.gate, d_addend, bias.dtype)
    return Gradients(d_x, d_f, d_bias, sums[0], d_shift, d_scale)


def _contiguous(addend: Addend) -> Addend:
    return addend._replace(f=addend.f.contiguous())


@triton.jit
def _both(vector, cols, more, inside, REST: tl.constexpr):
    """A vector in the two parts of `cut_width`, as it is stored."""
    first = tl.load(vector + cols)
    return first, tl.load(vector + more, mask=inside, other=0.0) if REST else first


@triton.jit
def _sum(x, f, bias, gate, out):
    """X' as it is stored: the norm is of what the backward will read."""
    return (x.to(tl.float32) + gate.to(tl.float32) * (f.to(tl.float32) + bias.to(tl.float32))).to(out.dtype.element_ty)


@triton.jit
def _modulated(normed, shift, scale):
    return normed * (1 + scale.to(tl.float32)) + shift.to(tl.float32)


@triton.jit
def _norm_forward(
    x, f, bias, gate, shift, scale, out, h, row_values, row_scales, spread, image_index,
    width, gate_stride, shift_stride, scale_stride, eps,
    ADDEND: tl.constexpr, NORM: tl.constexpr, EIGHT: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """A token: its image's vectors come from the cache again and again, and no program waits for another.

    All loads come first, so that they are waited for once and not between the sums.
    """
    row = tl.program_id(0).to(tl.int64)
    image = tl.load(image_index + row).to(tl.int64)
    at = row * width
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    inside = more < width
    value, rest = _both(x + at, cols, more, inside, REST)
    if ADDEND:
        f1, f2 = _both(f + at, cols, more, inside, REST)
        bias1, bias2 = _both(bias, cols, more, inside, REST)
        gate1, gate2 = _both(gate + image * gate_stride, cols, more, inside, REST)
    if NORM:
        shift1, shift2 = _both(shift + image * shift_stride, cols, more, inside, REST)
        scale1, scale2 = _both(scale + image * scale_stride, cols, more, inside, REST)
    if ADDEND:
        value = _sum(value, f1, bias1, gate1, out)
        tl.store(out + at + cols, value)
        if REST:
            rest = _sum(rest, f2, bias2, gate2, out)
            tl.store(out + at + more, rest, mask=inside)
    if NORM:
        value, rest = value.to(tl.float32), rest.to(tl.float32)
        total = tl.sum(_folded(value, rest, MAIN, REST))
        value -= total / width
        if REST:
            rest = tl.where(inside, rest - total / width, 0.0)
        squares = tl.sum(_folded(value * value, rest * rest, MAIN, REST))
        inverse = 1 / tl.sqrt(squares / width + eps)
        tl.store(spread + 2 * row, total / width)
        tl.store(spread + 2 * row + 1, inverse)
        value = _modulated(value * inverse, shift1, scale1)
        if REST:
            rest = _modulated(rest * inverse, shift2, scale2)
        if EIGHT:
            store_row(row_values, row_scales, row, width, value, rest, MAIN, REST)
        else:
            tl.store(h + at + cols, value.to(h.dtype.element_ty))
            if REST:
                tl.store(h + at + more, rest.to(h.dtype.element_ty), mask=inside)


@triton.jit
def _add_both(a, b, other_a, other_b):
    return a + other_a, b + other_b


@triton.jit
def _folded(main, rest, MAIN: tl.constexpr, REST: tl.constexpr):
    """The first part of a row added to the second, if there is one, so that threads wait once for the sum of all."""
    return tl.sum(tl.reshape(main, (REST, MAIN // REST)), axis=1) + rest if REST else main


@triton.jit
def _norm_backward(
    d_out, d_h, out, spread, f, bias, gate, scale, d_x, d_f, row_values, row_scales, partial, bounds,
    width, gate_stride, scale_stride,
    ADDEND: tl.constexpr, NORM: tl.constexpr, EIGHT: tl.constexpr, KEEP: tl.constexpr, AHEAD: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """A piece, token by token, each in two parts: the first columns and the rest."""
    piece = tl.program_id(0)
    start, end = tl.load(bounds + 3 * piece).to(tl.int64), tl.load(bounds + 3 * piece + 1)
    image = tl.load(bounds + 3 * piece + 2).to(tl.int64)
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    inside = more < width
    none1, none2 = tl.zeros((MAIN,), tl.float32), tl.zeros((REST,), tl.float32)
    if ADDEND:
        gate1, gate2 = _both(gate + image * gate_stride, cols, more, inside, REST)
        bias1, bias2 = _both(bias, cols, more, inside, REST)
        gate_sum1, gate_sum2, x_sum1, x_sum2 = none1, none2, none1, none2
    if NORM:
        scale1, scale2 = _both(scale + image * scale_stride, cols, more, inside, REST)
        shift_sum1, shift_sum2, scale_sum1, scale_sum2 = none1, none2, none1, none2
    for number in tl.range(0, (end - start).to(tl.int32), num_stages=AHEAD):
        token = start + number
        at = token * width
        d1, d2 = _both(d_out + at, cols, more, inside, REST)
        d1, d2 = d1.to(tl.float32), d2.to(tl.float32)
        if ADDEND:
            f1, f2 = _both(f + at, cols, more, inside, REST)
        if NORM:
            out1, out2 = _both(out + at, cols, more, inside, REST)
            h1, h2 = _both(d_h + at, cols, more, inside, REST)
            mean, inverse = tl.load(spread + 2 * token), tl.load(spread + 2 * token + 1)
            normed1, normed2 = (out1.to(tl.float32) - mean) * inverse, (out2.to(tl.float32) - mean) * inverse
            h1, h2 = h1.to(tl.float32), h2.to(tl.float32)
            shift_sum1 += h1
            shift_sum2 += h2
            scale_sum1 += h1 * normed1
            scale_sum2 += h2 * normed2
            h1 *= 1 + scale1.to(tl.float32)
            h2 *= 1 + scale2.to(tl.float32)
            sums = _folded(h1, h2, MAIN, REST), _folded(h1 * normed1, h2 * normed2, MAIN, REST)
            total, along = tl.reduce(sums, 0, _add_both)
            d1 += (h1 - total / width - normed1 * (along / width)) * inverse
            d2 += (h2 - total / width - normed2 * (along / width)) * inverse
            tl.store(d_x + at + cols, d1.to(d_x.dtype.element_ty))
            tl.store(d_x + at + more, d2.to(d_x.dtype.element_ty), mask=inside)
        if ADDEND:
            gate_sum1 += d1 * (f1.to(tl.float32) + bias1.to(tl.float32))
            gate_sum2 += d2 * (f2.to(tl.float32) + bias2.to(tl.float32))
            x_sum1 += d1
            x_sum2 += d2
            d1 *= gate1.to(tl.float32)
            d2 *= gate2.to(tl.float32)  # zero beyond the width
            if KEEP:
                tl.store(d_f + at + cols, d1.to(d_f.dtype.element_ty))
                tl.store(d_f + at + more, d2.to(d_f.dtype.element_ty), mask=inside)
            if EIGHT:
                store_row(row_values, row_scales, token, width, d1, d2, MAIN, REST)
    to = partial + piece.to(tl.int64) * ((2 * NORM + 2 * ADDEND) * width)
    if NORM:
        _store_both(to, shift_sum1, shift_sum2, cols, more, inside)
        _store_both(to + width, scale_sum1, scale_sum2, cols, more, inside)
    if ADDEND:
        _store_both(to + 2 * NORM * width, gate_sum1, gate_sum2, cols, more, inside)
        _store_both(to + (2 * NORM + 1) * width, x_sum1, x_sum2, cols, more, inside)


@triton.jit
def _store_both(to, first, rest, cols, more, inside):
    tl.store(to + cols, first)
    tl.store(to + more, rest, mask=inside)
