"""Gate, residual and modulated norm in one pass over the tokens, and in one backward.

`forward` reads x (and f) once and writes x' (and h) once; `backward` reads four tensors and writes two. The norm's mean
and spread are computed anew in the backward, from x', which is at hand.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Rows
from .float8 import cut_width, scale_of, store_row
from .pieces import Pieces, sums_by_image, weighted_sum

FORWARD = {"num_warps": 2}
BACKWARD = {"AHEAD": 4, "num_warps": 4}  # loads are begun so many tokens ahead


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


def forward(
    x: Tensor, addend: Addend | None, affine: Affine | None, image_index: Tensor, eps: float, rows: Rows | None = None
) -> tuple[Tensor, Tensor | None]:
    """X' = x + gate·(f + bias), and h = norm(x')·(1 + scale) + shift; x' is x itself without an addend.

    `image_index` is the row of each token's image. Where `rows` are given, h is written into them, in 8 bits, and not
    returned.
    """
    x = x.contiguous()
    out = torch.empty_like(x) if addend else x
    h = torch.empty_like(x) if affine and rows is None else None
    f, bias, gate = _contiguous(addend) if addend else (x, x, x)
    shift, scale = affine or (x, x)
    _norm_forward[(len(x),)](
        x, f, bias, gate, shift, scale, out, x if h is None else h, *(rows or (x, x)), image_index,
        x.shape[1], gate.stride(0), shift.stride(0), scale.stride(0), eps,
        ADDEND=addend is not None, NORM=affine is not None, EIGHT=rows is not None, **cut_width(x.shape[1]), **FORWARD,
    )  # fmt: skip
    return out, h


class Gradients(NamedTuple):
    """Of a forward pass; None where it had no such input.

    Attributes:
        x: (tokens, width).
        f: (tokens, width).
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
    addend: Addend | None,
    affine: Affine | None,
    pieces: Pieces,
    eps: float,
    rows: Rows | None = None,
) -> Gradients:
    """From the gradients of x' and h. `out` is x', which only the norm needs; f's is also written into `rows`."""
    d_out = d_out.contiguous()
    width = d_out.shape[1]
    d_x = torch.empty_like(d_out) if affine else d_out
    d_f = torch.empty_like(d_out) if addend else None
    f, bias, gate = _contiguous(addend) if addend else (d_out, d_out, d_out)
    scale = affine.scale if affine else d_out
    values = 2 * (addend is not None) + 2 * (affine is not None)
    partial = torch.empty(len(pieces.bounds), values, width, device=d_out.device, dtype=torch.float32)
    _norm_backward[(len(pieces.bounds),)](
        d_out, d_out if d_h is None else d_h.contiguous(), out, f, bias, gate, scale,
        d_x, d_out if d_f is None else d_f, *(rows or (d_out, d_out)), partial, pieces.bounds,
        width, gate.stride(0), scale.stride(0), eps,
        ADDEND=addend is not None, NORM=affine is not None, EIGHT=rows is not None,
        BLOCK=triton.next_power_of_2(width), **BACKWARD,
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
    x, f, bias, gate, shift, scale, out, h, row_values, row_scales, image_index,
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
        total = tl.sum(value)
        if REST:
            total += tl.sum(rest)
        value -= total / width
        squares = tl.sum(value * value)
        if REST:
            rest = tl.where(inside, rest - total / width, 0.0)
            squares += tl.sum(rest * rest)
        inverse = 1 / tl.sqrt(squares / width + eps)
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
def _norm_backward(
    d_out, d_h, out, f, bias, gate, scale, d_x, d_f, row_values, row_scales, partial, bounds,
    width, gate_stride, scale_stride, eps,
    ADDEND: tl.constexpr, NORM: tl.constexpr, EIGHT: tl.constexpr, AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0)
    start, end = tl.load(bounds + 3 * piece).to(tl.int64), tl.load(bounds + 3 * piece + 1)
    image = tl.load(bounds + 3 * piece + 2).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    if ADDEND:
        g = tl.load(gate + image * gate_stride + cols, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
        sum_gate = tl.zeros((BLOCK,), tl.float32)
        sum_x = tl.zeros((BLOCK,), tl.float32)
    if NORM:
        times = 1 + tl.load(scale + image * scale_stride + cols, mask=inside, other=0.0).to(tl.float32)
        sum_shift = tl.zeros((BLOCK,), tl.float32)
        sum_scale = tl.zeros((BLOCK,), tl.float32)
    for number in tl.range(0, (end - start).to(tl.int32), num_stages=AHEAD):
        at = (start + number) * width + cols
        d_value = tl.load(d_out + at, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            value = tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
            d_normed = tl.load(d_h + at, mask=inside, other=0.0).to(tl.float32)
            scaled = d_normed * times
            # sums two by two, since threads wait for each other in each
            total, mean = tl.reduce((value, scaled), 0, _add_both)
            centred = tl.where(inside, value - total / width, 0.0)
            squares, along = tl.reduce((centred * centred, scaled * centred), 0, _add_both)
            inverse = 1 / tl.sqrt(squares / width + eps)
            normed = centred * inverse
            sum_shift += d_normed
            sum_scale += d_normed * normed
            d_value += (scaled - mean / width - normed * (along * inverse / width)) * inverse
            tl.store(d_x + at, d_value.to(d_x.dtype.element_ty), mask=inside)
        if ADDEND:
            d_value = tl.where(inside, d_value, 0.0)
            added = tl.load(f + at, mask=inside, other=0.0).to(tl.float32) + b
            sum_gate += d_value * added
            sum_x += d_value
            d_value *= g
            tl.store(d_f + at, d_value.to(d_f.dtype.element_ty), mask=inside)
            if EIGHT:
                of_row = scale_of(tl.max(tl.abs(d_value)))
                tl.store(row_values + at, (d_value / of_row).to(row_values.dtype.element_ty), mask=inside)
                tl.store(row_scales + start + number, of_row)
    values: tl.constexpr = 2 * NORM + 2 * ADDEND
    to = partial + piece.to(tl.int64) * values * width + cols
    if NORM:
        tl.store(to, sum_shift, mask=inside)
        tl.store(to + width, sum_scale, mask=inside)
    if ADDEND:
        tl.store(to + 2 * NORM * width, sum_gate, mask=inside)
        tl.store(to + (2 * NORM + 1) * width, sum_x, mask=inside)
