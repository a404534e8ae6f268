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
from .gelu import _gate

GREATEST = tl.constexpr(448.0)  # that e4m3 can hold
LEAST = tl.constexpr(1e-30)  # greatest value of a row that has a scale of its own: a row of zeros has none
ROWS = {"ROWS": 8, "num_warps": 8}  # of a program, one after the other
FORWARD = {"ROWS": 8, "num_warps": 16}  # of the GELU
BACKWARD = {"ROWS": 32, "num_warps": 16}
WEIGHT, COLUMNS = {"TILE": 64, "num_warps": 4}, {"TILE": 128, "num_warps": 8}  # a side of a program's tile


def rows_of(x: Tensor) -> Rows:
    """A (rows, width) tensor in 8 bits."""
    x, rows = x.contiguous(), Rows.empty(x.shape, x.device)
    _write_rows[(triton.cdiv(len(x), ROWS["ROWS"]),)](x, *rows, *x.shape, **cut_width(x.shape[1]), **ROWS)
    return rows


def columns_of(rows: Rows) -> Columns:
    """A matrix transposed, as a sum over its rows reads it: all at the greatest of the rows' scales."""
    height, width = rows.values.shape
    columns = Columns.empty(height, width, rows.scales.amax())
    padded = columns.values.shape[1]
    grid = triton.cdiv(padded, COLUMNS["TILE"]), triton.cdiv(width, COLUMNS["TILE"])
    _write_columns[grid](*rows, columns.scale, columns.values, height, width, padded, **COLUMNS)
    return columns


def write_weight(weight: Tensor, greatest: Tensor, rows: Rows, columns: Rows | None) -> None:
    """A weight, whose greatest absolute value is given, in 8 bits as it is and, if asked for, transposed."""
    grid = tuple(triton.cdiv(side, WEIGHT["TILE"]) for side in weight.shape)
    transposed = columns is not None
    _write_weight[grid](weight, greatest, *rows, *(columns or rows), *weight.shape, TRANSPOSED=transposed, **WEIGHT)


def gelu_forward(product: Tensor, bias: Tensor) -> Rows:
    """gelu(product + bias) of (tokens, width)."""
    (tokens, width), rows = product.shape, Rows.empty(product.shape, product.device)
    grid = (triton.cdiv(tokens, FORWARD["ROWS"]),)
    _gelu_forward[grid](product, bias, *rows, tokens, width, **cut_width(width), **FORWARD)
    return rows


def gelu_backward(d_out: Tensor, product: Tensor, bias: Tensor) -> tuple[Rows, Tensor]:
    """The product's gradient and, in float32, the bias's."""
    (tokens, width), rows, d_out = product.shape, Rows.empty(product.shape, product.device), d_out.contiguous()
    programs = triton.cdiv(tokens, BACKWARD["ROWS"])
    partial = torch.empty(programs, width, device=product.device, dtype=torch.float32)
    _gelu_backward[(programs,)](d_out, product, bias, *rows, partial, tokens, width, **cut_width(width), **BACKWARD)
    return rows, partial.sum(0)


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
    greatest = tl.max(tl.abs(value))
    if REST:
        greatest = tl.maximum(greatest, tl.max(tl.abs(rest)))
    scale = scale_of(greatest)
    tl.store(values + at + cols, (value / scale).to(values.dtype.element_ty))
    if REST:
        tl.store(values + at + more, (rest / scale).to(values.dtype.element_ty), mask=more < width)
    tl.store(scales + row, scale)


@triton.jit
def _write_rows(x, values, scales, rows, width, ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr):
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    for row in tl.range(tl.program_id(0) * ROWS, min(rows, (tl.program_id(0) + 1) * ROWS), num_stages=3):
        at = tl.cast(row, tl.int64) * width
        value = tl.load(x + at + cols).to(tl.float32)
        rest = value
        if REST:
            rest = tl.load(x + at + more, mask=more < width, other=0.0).to(tl.float32)
        store_row(values, scales, row, width, value, rest, MAIN, REST)


@triton.jit
def _write_columns(values, scales, scale, out, height, width, padded, TILE: tl.constexpr):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (col < width)[None, :]
    # powers of two: only what becomes too small for the format loses bits
    times = tl.load(scales + row, mask=row < height, other=0.0) / tl.load(scale)
    at = row[:, None].to(tl.int64) * width + col[None, :]
    value = tl.load(values + at, mask=(row < height)[:, None] & inside, other=0.0).to(tl.float32) * times[:, None]
    to = col[None, :].to(tl.int64) * padded + row[:, None]
    tl.store(out + to, value.to(out.dtype.element_ty), mask=(row < padded)[:, None] & inside)


@triton.jit
def _write_weight(
    weight, greatest, values, scales, column_values, column_scales, rows, width,
    TRANSPOSED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = (row < rows)[:, None] & (col < width)[None, :]
    scale = scale_of(tl.load(greatest).to(tl.float32))
    at = row[:, None] * width + col[None, :]
    value = (tl.load(weight + at, mask=here, other=0.0).to(tl.float32) / scale).to(values.dtype.element_ty)
    tl.store(values + at, value, mask=here)
    if tl.program_id(1) == 0:
        tl.store(scales + row, tl.zeros((TILE,), tl.float32) + scale, mask=row < rows)
    if TRANSPOSED:
        tl.store(column_values + row[:, None] + col[None, :] * rows, value, mask=here)
        if tl.program_id(0) == 0:
            tl.store(column_scales + col, tl.zeros((TILE,), tl.float32) + scale, mask=col < width)


@triton.jit
def _gelu_forward(
    product, bias, values, scales, tokens, width, ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr
):
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    b = tl.load(bias + cols).to(tl.float32)
    if REST:
        b_rest = tl.load(bias + more, mask=more < width, other=0.0).to(tl.float32)
    for row in tl.range(tl.program_id(0) * ROWS, min(tokens, (tl.program_id(0) + 1) * ROWS), num_stages=3):
        at = tl.cast(row, tl.int64) * width
        u = tl.load(product + at + cols).to(tl.float32) + b
        value = u * _gate(u)
        rest = value
        if REST:
            u = tl.load(product + at + more, mask=more < width, other=0.0).to(tl.float32) + b_rest
            rest = u * _gate(u)
        store_row(values, scales, row, width, value, rest, MAIN, REST)


@triton.jit
def _gelu_backward(
    d_out, product, bias, values, scales, partial, tokens, width,
    ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    cols, more = tl.arange(0, MAIN), MAIN + tl.arange(0, REST if REST else 1)
    b = tl.load(bias + cols).to(tl.float32)
    total = tl.zeros((MAIN,), tl.float32)
    if REST:
        b_rest = tl.load(bias + more, mask=more < width, other=0.0).to(tl.float32)
        total_rest = tl.zeros((REST,), tl.float32)
    for row in tl.range(tl.program_id(0) * ROWS, min(tokens, (tl.program_id(0) + 1) * ROWS), num_stages=3):
        at = tl.cast(row, tl.int64) * width
        u = tl.load(product + at + cols).to(tl.float32) + b
        value = _slope(u) * tl.load(d_out + at + cols).to(tl.float32)
        total += value
        rest = value
        if REST:
            u = tl.load(product + at + more, mask=more < width, other=0.0).to(tl.float32) + b_rest
            rest = _slope(u) * tl.load(d_out + at + more, mask=more < width, other=0.0).to(tl.float32)
            total_rest += rest
        store_row(values, scales, row, width, value, rest, MAIN, REST)
    to = partial + tl.program_id(0).to(tl.int64) * width
    tl.store(to + cols, total)
    if REST:
        tl.store(to + more, total_rest, mask=more < width)


@triton.jit
def _slope(u):
    """The derivative of gelu."""
    gate = _gate(u)
    return gate + u * gate * (1 - gate) * (1.5957691216057308 * (1 + 0.134145 * u * u))
