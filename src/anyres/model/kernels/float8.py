"""What writes matrices in 8 bits: a tensor's rows, its columns, a weight, the GELU and its derivative.

The GELU's kernels differ from those in `gelu.py` in that a program holds whole rows, whose greatest value it has to
know. A row's width is cut in two powers of two (4608 = 4096 + 512).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Columns, Rows
from . import sums
from .gelu import _gate, _slope

GREATEST = tl.constexpr(448.0)  # that e4m3 can hold
LEAST = tl.constexpr(1e-30)  # greatest value of a row that has a scale of its own: a row of zeros has none
ROWS, FORWARD = {"num_warps": 2}, {"num_warps": 8}  # a row a program; the latter of the GELU
BACKWARD = {"ROWS": 32, "num_warps": 4, "maxnreg": 128}  # rows of a program, one after the other
WEIGHT, COLUMNS = {"TILE": 64, "num_warps": 4}, {"TILE": 128, "num_warps": 4}  # a side of a program's tile


def rows_of(x: Tensor) -> Rows:
    """A (rows, width) tensor in 8 bits."""
    x, rows = x.contiguous(), Rows.empty(x.shape, x.device)
    _write_rows[(len(x),)](x, *rows, x.shape[1], **cut_width(x.shape[1]), **ROWS)
    return rows


def columns_of(a: Rows, b: Rows) -> tuple[Columns, Columns]:
    """Two matrices of equal height transposed, as a sum over their rows reads them.

    Each is at the greatest of its rows' scales. Two, since a product takes two and a launch is not free.
    """
    height, widths = len(a.values), (a.values.shape[1], b.values.shape[1])
    greatest = torch.empty(2, 4, device=a.scales.device)  # the library wants scales that begin at 16 bytes
    _greatest[(2,)](a.scales, b.scales, greatest, height, BLOCK=8192, num_warps=32)
    first, second = (Columns.empty(height, width, of[0]) for width, of in zip(widths, greatest, strict=True))
    padded, tile = first.values.shape[1], COLUMNS["TILE"]
    grid = triton.cdiv(padded, tile), triton.cdiv(widths[0], tile) + triton.cdiv(widths[1], tile)
    _write_columns[grid](*a, first.values, *b, second.values, greatest, height, *widths, padded, **COLUMNS)
    return first, second


def write_weight(weight: Tensor, greatest: Tensor, rows: Rows, columns: Rows | None) -> None:
    """A weight, whose greatest absolute value is given, in 8 bits as it is and, if asked for, transposed."""
    grid = tuple(triton.cdiv(side, WEIGHT["TILE"]) for side in weight.shape)
    transposed = columns is not None
    _write_weight[grid](weight, greatest, *rows, *(columns or rows), *weight.shape, TRANSPOSED=transposed, **WEIGHT)


def gelu_forward(product: Tensor, bias: Tensor) -> Rows:
    """gelu(product + bias) of (tokens, width)."""
    (tokens, width), rows = product.shape, Rows.empty(product.shape, product.device)
    _gelu_forward[(tokens,)](product, bias, *rows, width, **cut_width(width), **FORWARD)
    return rows


def gelu_backward(d_out: Tensor, product: Tensor, bias: Tensor) -> tuple[Rows, Tensor]:
    """The product's gradient and the bias's, in its dtype."""
    (tokens, width), rows, d_out = product.shape, Rows.empty(product.shape, product.device), d_out.contiguous()
    programs = triton.cdiv(tokens, BACKWARD["ROWS"])
    partial = torch.empty(programs, width, device=product.device, dtype=torch.float32)
    _gelu_backward[(programs,)](d_out, product, bias, *rows, partial, tokens, width, **cut_width(width), **BACKWARD)
    return rows, sums.over_rows(partial, torch.empty_like(bias))


def cut_width(width: int) -> dict[str, Any]:
    """A row's width in two powers of two, of which the second may be greater than what is left, or 0."""
    main = triton.next_power_of_2(width + 1) // 2
    return {"MAIN": main, "REST": triton.next_power_of_2(width - main) if width > main else 0}


@triton.jit
def scale_of(greatest):
    """What a row is divided by: the least power of two with which its greatest value fits; infinite where that is."""
    bits = (tl.maximum(greatest, LEAST) / GREATEST).to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def store_row(values, scales, row, width, value, rest, MAIN: tl.constexpr, REST: tl.constexpr):
    """A row in 8 bits, given in the two parts of `cut_width`; `rest` is zero beyond the width."""
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    at = tl.cast(row, tl.int64) * width
    greatest = tl.abs(value)
    if REST:  # folded, so that threads wait for each other once
        greatest = tl.maximum(tl.max(tl.reshape(greatest, (REST, MAIN // REST)), axis=1), tl.abs(rest))
    scale = scale_of(tl.max(greatest))
    times = 1 / scale  # as exact as to divide by a power of two, and cheaper
    tl.store(values + at + cols, (value * times).to(values.dtype.element_ty))
    if REST:
        tl.store(values + at + more, (rest * times).to(values.dtype.element_ty), mask=more < width)
    tl.store(scales + row, scale)


@triton.jit
def _write_rows(x, values, scales, width, MAIN: tl.constexpr, REST: tl.constexpr):
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    row = tl.program_id(0)
    at = tl.cast(row, tl.int64) * width
    value = tl.load(x + at + cols).to(tl.float32)
    rest = value
    if REST:
        rest = tl.load(x + at + more, mask=more < width, other=0.0).to(tl.float32)
    store_row(values, scales, row, width, value, rest, MAIN, REST)


@triton.jit
def _greatest(a, b, out, number, BLOCK: tl.constexpr):
    """Of two vectors of scales."""
    of = b if tl.program_id(0) else a
    greatest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        greatest = tl.maximum(greatest, tl.load(of + at, mask=at < number, other=0.0))
    tl.store(out + 4 * tl.program_id(0), tl.max(greatest))


@triton.jit
def _write_columns(
    a_values, a_scales, a_out, b_values, b_scales, b_out, greatest, height, a_width, b_width, padded,
    TILE: tl.constexpr,
):  # fmt: skip
    """Tiles of a, and beyond those of b."""
    tiles = tl.cdiv(a_width, TILE)
    if tl.program_id(1) < tiles:
        _transpose(a_values, a_scales, greatest, a_out, height, a_width, padded, tl.program_id(1), TILE)
    else:
        _transpose(b_values, b_scales, greatest + 4, b_out, height, b_width, padded, tl.program_id(1) - tiles, TILE)


@triton.jit
def _transpose(values, scales, greatest, out, height, width, padded, tile, TILE: tl.constexpr):
    pair = tl.program_id(0) * (TILE // 2) + tl.arange(0, TILE // 2)
    row, col = tl.program_id(0) * TILE + tl.arange(0, TILE), tile * TILE + tl.arange(0, TILE)
    scale = tl.load(greatest)
    even = _scaled(values, scales, scale, 2 * pair, col, height, width)
    odd = _scaled(values, scales, scale, 2 * pair + 1, col, height, width)
    here = (col < width)[:, None] & (row < padded)[None, :]
    tl.store(out + col[:, None].to(tl.int64) * padded + row[None, :], _turned(even, odd, out, TILE), mask=here)


@triton.jit
def _scaled(values, scales, scale, row, col, height, width):
    """Some rows at the scale that is given."""
    here = (row < height)[:, None] & (col < width)[None, :]
    # powers of two: only what becomes too small for the format loses bits, so that 16 bits hold what lies between
    times = (tl.load(scales + row, mask=row < height, other=0.0) / scale).to(tl.float16)
    value = tl.load(values + row[:, None].to(tl.int64) * width + col[None, :], mask=here, other=0.0)
    return value.to(tl.float16) * times[:, None]


@triton.jit
def _turned(even, odd, out, TILE: tl.constexpr):
    """Every other row of a tile, twice → the tile transposed, in 8 bits.

    Two rows are converted side by side, so that words of 16 bits change places, and no byte has to be taken out of one:
    ptxas 12.8 has been seen to make wrong code of that.
    """
    both = tl.join(even, odd).to(out.dtype.element_ty)
    return tl.reshape(tl.permute(both, (1, 0, 2)), (TILE, TILE))


@triton.jit
def _write_weight(
    weight, greatest, values, scales, column_values, column_scales, rows, width,
    TRANSPOSED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0) * (TILE // 2) + tl.arange(0, TILE // 2)
    row, col = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = (pair < rows // 2)[:, None] & (col < width)[None, :]
    scale = scale_of(tl.load(greatest).to(tl.float32))
    times, scaled = 1 / scale, tl.zeros((TILE,), tl.float32) + scale
    at = 2 * pair[:, None] * width + col[None, :]
    even = tl.load(weight + at, mask=here, other=0.0).to(tl.float32) * times
    odd = tl.load(weight + at + width, mask=here, other=0.0).to(tl.float32) * times
    tl.store(values + at, even.to(values.dtype.element_ty), mask=here)
    tl.store(values + at + width, odd.to(values.dtype.element_ty), mask=here)
    if tl.program_id(1) == 0:
        tl.store(scales + row, scaled, mask=row < rows)
    if TRANSPOSED:
        there = (col < width)[:, None] & (row < rows)[None, :]
        tl.store(column_values + col[:, None] * rows + row[None, :], _turned(even, odd, values, TILE), mask=there)
        if tl.program_id(0) == 0:
            tl.store(column_scales + col, scaled, mask=col < width)


@triton.jit
def _gelu_forward(product, bias, values, scales, width, MAIN: tl.constexpr, REST: tl.constexpr):
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    row = tl.program_id(0)
    at = tl.cast(row, tl.int64) * width
    u = tl.load(product + at + cols).to(tl.float32) + tl.load(bias + cols).to(tl.float32)
    value = u * _gate(u)
    rest = value
    if REST:
        inside = more < width
        u = tl.load(product + at + more, mask=inside, other=0.0).to(tl.float32)
        u += tl.load(bias + more, mask=inside, other=0.0).to(tl.float32)
        rest = u * _gate(u)
    store_row(values, scales, row, width, value, rest, MAIN, REST)


@triton.jit
def _gelu_backward(
    d_out, product, bias, values, scales, partial, tokens, width,
    ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    inside = more < width
    total = tl.zeros((MAIN,), tl.float32)
    if REST:
        total_rest = tl.zeros((REST,), tl.float32)
    first = tl.program_id(0) * ROWS
    for number in range(min(tokens - first, ROWS)):
        row = first + number
        at = tl.cast(row, tl.int64) * width
        # the bias comes from the cache: registers are for more rows at a time
        u = tl.load(product + at + cols).to(tl.float32) + tl.load(bias + cols).to(tl.float32)
        value = _slope(u) * tl.load(d_out + at + cols).to(tl.float32)
        total += value
        rest = value
        if REST:
            u = tl.load(product + at + more, mask=inside, other=0.0).to(tl.float32)
            u += tl.load(bias + more, mask=inside, other=0.0).to(tl.float32)
            rest = _slope(u) * tl.load(d_out + at + more, mask=inside, other=0.0).to(tl.float32)
            total_rest += rest
        store_row(values, scales, row, width, value, rest, MAIN, REST)
    to = partial + tl.program_id(0).to(tl.int64) * width
    tl.store(to + cols, total)
    if REST:
        tl.store(to + more, total_rest, mask=inside)
