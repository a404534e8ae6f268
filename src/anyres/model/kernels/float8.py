"""What writes rows in 8 bits: a tensor's, a weight's, and the GELU's of both directions beside their 16-bit ones.

The GELU's kernels differ from those in `gelu.py` in that a program holds whole rows, whose greatest value it has to
know. A row's width is cut in two powers of two (4608 = 4096 + 512).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..float8 import Columns, Rows
from .gelu import _gate

GREATEST = tl.constexpr(448.0)  # that e4m3 can hold
LEAST = tl.constexpr(1e-30)  # greatest value of a row that has a scale of its own: a row of zeros has none
WARPS, GELU_WARPS = 8, 16
FORWARD_ROWS, BACKWARD_ROWS, TILE, COLUMNS_TILE = 8, 32, 64, 128  # of a program


def rows_of(x: Tensor) -> Rows:
    """A (rows, width) tensor in 8 bits."""
    x = x.contiguous()
    rows = Rows.empty(x.shape, x.device)
    tile = _tile(x.shape[1])
    _write_rows[(triton.cdiv(len(x), FORWARD_ROWS),)](x, *rows, *x.shape, ROWS=FORWARD_ROWS, **tile, num_warps=WARPS)
    return rows


def write_weight(weight: Tensor, greatest: Tensor, rows: Rows, columns: Rows | None) -> None:
    """A weight, whose greatest absolute value is given, in 8 bits as it is and, if asked for, transposed."""
    out, width = weight.shape
    _write_weight[(triton.cdiv(out, TILE), triton.cdiv(width, TILE))](
        weight, greatest, *rows, *(columns or rows), out, width, COLUMNS=columns is not None, TILE=TILE
    )


def columns_of(rows: Rows) -> Columns:
    """A matrix transposed, as a sum over its rows reads it: all at the greatest of the rows' scales."""
    height, width = rows.values.shape
    padded = -(-height // 16) * 16
    values = torch.empty(width, padded, device=rows.values.device, dtype=rows.values.dtype)
    scale = rows.scales.amax()
    _transpose[(triton.cdiv(padded, COLUMNS_TILE), triton.cdiv(width, COLUMNS_TILE))](
        *rows, scale, values, height, width, padded, TILE=COLUMNS_TILE, num_warps=WARPS
    )
    return Columns(values, scale)


def gelu_forward(product: Tensor, bias: Tensor, rows: Rows, *, keep: bool = True) -> Tensor | None:
    """gelu(product + bias) of (tokens, width), in 8 bits written into `rows`, and as it is if it is to be kept."""
    tokens, width = product.shape
    out = torch.empty_like(product) if keep else None
    _gelu_forward[(triton.cdiv(tokens, FORWARD_ROWS),)](
        product, bias, product if out is None else out, *rows, tokens, width,
        KEEP=keep, ROWS=FORWARD_ROWS, **_tile(width), num_warps=GELU_WARPS,
    )  # fmt: skip
    return out


def gelu_backward(d_out: Tensor, product: Tensor, bias: Tensor) -> tuple[Tensor, Rows, Tensor]:
    """The product's gradient, the same in 8 bits, and in float32 the bias's."""
    d_out = d_out.contiguous()
    tokens, width = product.shape
    d_product, rows = torch.empty_like(d_out), Rows.empty(product.shape, product.device)
    programs = triton.cdiv(tokens, BACKWARD_ROWS)
    partial = torch.empty(programs, width, device=d_out.device, dtype=torch.float32)
    _gelu_backward[(programs,)](
        d_out, product, bias, d_product, *rows, partial, tokens, width,
        ROWS=BACKWARD_ROWS, **_tile(width), num_warps=GELU_WARPS,
    )  # fmt: skip
    return d_product, rows, partial.sum(0)


def _tile(width: int) -> dict[str, Any]:
    main = triton.next_power_of_2(width + 1) // 2
    return {"MAIN": main, "REST": triton.next_power_of_2(width - main) if width > main else 0}


@triton.jit
def scale_of(greatest):
    """What a row's values are divided by: the least power of two with which they fit; infinite where they are."""
    bits = (tl.maximum(greatest, LEAST) / GREATEST).to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def greatest_of(value):
    """Of the absolute values of each row."""
    return tl.max(tl.abs(value), axis=1)


@triton.jit
def store(values, at, value, scale, here):
    """Rows of float32 numbers, each divided by its scale."""
    tl.store(values + at, (value * (1 / scale)[:, None]).to(values.dtype.element_ty), mask=here)


@triton.jit
def _write_rows(x, values, scales, rows, width, ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr):
    cols = tl.arange(0, MAIN)[None, :]
    for step in tl.range(0, ROWS, num_stages=3):
        row = tl.program_id(0) * ROWS + step + tl.arange(0, 1)
        at, real = row[:, None].to(tl.int64) * width + cols, row < rows
        value = tl.load(x + at, mask=real[:, None], other=0.0).to(tl.float32)
        greatest = greatest_of(value)
        if REST:
            more = MAIN + tl.arange(0, REST)[None, :]
            at_more, here = row[:, None].to(tl.int64) * width + more, real[:, None] & (more < width)
            rest = tl.load(x + at_more, mask=here, other=0.0).to(tl.float32)
            greatest = tl.maximum(greatest, greatest_of(rest))
        scale = scale_of(greatest)
        store(values, at, value, scale, real[:, None])
        if REST:
            store(values, at_more, rest, scale, here)
        tl.store(scales + row, scale, mask=real)


@triton.jit
def _write_weight(
    weight, greatest, values, scales, column_values, column_scales, rows, width,
    COLUMNS: tl.constexpr, TILE: tl.constexpr,
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
    if COLUMNS:
        tl.store(column_values + row[:, None] + col[None, :] * rows, value, mask=here)
        if tl.program_id(0) == 0:
            tl.store(column_scales + col, tl.zeros((TILE,), tl.float32) + scale, mask=col < width)


@triton.jit
def _transpose(values, scales, scale, out, height, width, padded, TILE: tl.constexpr):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    real, inside = row < height, col < width
    # powers of two: only what becomes too small for the format loses bits
    times = tl.load(scales + row, mask=real, other=0.0) / tl.load(scale)
    at = row[:, None].to(tl.int64) * width + col[None, :]
    value = tl.load(values + at, mask=real[:, None] & inside[None, :], other=0.0).to(tl.float32) * times[:, None]
    to = col[None, :].to(tl.int64) * padded + row[:, None]
    tl.store(out + to, value.to(out.dtype.element_ty), mask=(row < padded)[:, None] & inside[None, :])


@triton.jit
def _gelu_forward(
    product, bias, out, values, scales, tokens, width,
    KEEP: tl.constexpr, ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    cols = tl.arange(0, MAIN)[None, :]
    b = tl.load(bias + cols).to(tl.float32)
    if REST:
        more = MAIN + tl.arange(0, REST)[None, :]
        b_rest = tl.load(bias + more, mask=more < width, other=0.0).to(tl.float32)
    for step in tl.range(0, ROWS, num_stages=3):
        row = tl.program_id(0) * ROWS + step + tl.arange(0, 1)
        at, real = row[:, None].to(tl.int64) * width + cols, (row < tokens)
        u = tl.load(product + at, mask=real[:, None], other=0.0).to(tl.float32) + b
        value = u * _gate(u)
        greatest = greatest_of(value)
        if REST:
            at_more, here = row[:, None].to(tl.int64) * width + more, real[:, None] & (more < width)
            u = tl.load(product + at_more, mask=here, other=0.0).to(tl.float32) + b_rest
            rest = u * _gate(u)
            greatest = tl.maximum(greatest, greatest_of(rest))
        scale = scale_of(greatest)
        store(values, at, value, scale, real[:, None])
        if KEEP:
            tl.store(out + at, value.to(out.dtype.element_ty), mask=real[:, None])
        if REST:
            store(values, at_more, rest, scale, here)
            if KEEP:
                tl.store(out + at_more, rest.to(out.dtype.element_ty), mask=here)
        tl.store(scales + row, scale, mask=real)


@triton.jit
def _gelu_backward(
    d_out, product, bias, d_product, values, scales, partial, tokens, width,
    ROWS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    cols = tl.arange(0, MAIN)[None, :]
    b = tl.load(bias + cols).to(tl.float32)
    total = tl.zeros((1, MAIN), tl.float32)
    if REST:
        more = MAIN + tl.arange(0, REST)[None, :]
        b_rest = tl.load(bias + more, mask=more < width, other=0.0).to(tl.float32)
        total_rest = tl.zeros((1, REST), tl.float32)
    for step in tl.range(0, ROWS, num_stages=3):
        row = tl.program_id(0) * ROWS + step + tl.arange(0, 1)
        at, real = row[:, None].to(tl.int64) * width + cols, (row < tokens)
        u = tl.load(product + at, mask=real[:, None], other=0.0).to(tl.float32) + b
        value = _slope(u) * tl.load(d_out + at, mask=real[:, None], other=0.0).to(tl.float32)
        total += value
        greatest = greatest_of(value)
        if REST:
            at_more, here = row[:, None].to(tl.int64) * width + more, real[:, None] & (more < width)
            u = tl.load(product + at_more, mask=here, other=0.0).to(tl.float32) + b_rest
            rest = _slope(u) * tl.load(d_out + at_more, mask=here, other=0.0).to(tl.float32)
            total_rest += rest
            greatest = tl.maximum(greatest, greatest_of(rest))
        scale = scale_of(greatest)
        store(values, at, value, scale, real[:, None])
        tl.store(d_product + at, value.to(d_product.dtype.element_ty), mask=real[:, None])
        if REST:
            store(values, at_more, rest, scale, here)
            tl.store(d_product + at_more, rest.to(d_product.dtype.element_ty), mask=here)
        tl.store(scales + row, scale, mask=real)
    to = partial + tl.program_id(0).to(tl.int64) * width
    tl.store(to + cols, total)
    if REST:
        tl.store(to + more, total_rest, mask=more < width)


@triton.jit
def _slope(u):
    """The derivative of gelu."""
    gate = _gate(u)
    return gate + u * gate * (1 - gate) * (1.5957691216057308 * (1 + 0.134145 * u * u))
