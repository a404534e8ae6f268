"""Bias, activation, norm, residual and shortcuts, written over the map that they begin with."""

import triton
import triton.language as tl
from torch import Tensor

VALUES = 4096  # of a program, at most
SIZES = ("rows", "high", "wide")  # one compilation for all of them


def bias_silu(x: Tensor, bias: Tensor) -> Tensor:
    """silu(x + bias), written over x."""
    width, tile = _tile(x)
    rows = x.numel() // width
    _bias_silu[(triton.cdiv(rows, tile["ROWS"]),)](x, bias, rows, width, **tile)
    return x


def norm_add(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor) -> Tensor:
    """RMSNorm(x)·weight + bias + residual, over the channels; written over x."""
    width, tile = _tile(x)
    rows = x.numel() // width
    _norm_add[(triton.cdiv(rows, tile["ROWS"]),)](
        x, weight, weight if bias is None else bias, residual, rows, width, eps, BIAS=bias is not None, **tile
    )
    return x


def up_add(x: Tensor, bias: Tensor, coarse: Tensor) -> Tensor:
    """X + bias + the map of half the side, pixel-shuffled after its channels are repeated; written over x.

    Args:
        x: (images, height, width, channels).
        bias: (channels,).
        coarse: (images, height/2, width/2, coarse channels), four times `channels` being a multiple of the last.
    """
    width, tile = _tile(x)
    rows, (_, high, wide, _) = x.numel() // width, x.shape
    _up_add[(triton.cdiv(rows, tile["ROWS"]),)](
        x, bias, coarse, rows, width, high, wide, coarse.shape[3], REPEATS=4 * width // coarse.shape[3], **tile
    )
    return x


def down_add(x: Tensor, bias: Tensor, fine: Tensor) -> Tensor:
    """X + bias + the map of twice the side, pixel-unshuffled, with neighbouring channels averaged; written over x.

    Args:
        x: (images, height, width, channels).
        bias: (channels,).
        fine: (images, 2·height, 2·width, fine channels), four times the last being a multiple of `channels`.
    """
    width, tile = _tile(x)
    rows, (_, high, wide, _) = x.numel() // width, x.shape
    _down_add[(triton.cdiv(rows, tile["ROWS"]),)](
        x, bias, fine, rows, width, high, wide, fine.shape[3], GROUP=4 * fine.shape[3] // width, **tile
    )
    return x


def _tile(x: Tensor) -> tuple[int, dict[str, int]]:
    width = x.shape[-1]
    cols = triton.next_power_of_2(width)
    return width, {"ROWS": max(1, VALUES // cols), "COLS": cols, "num_warps": 8}


@triton.jit
def _place(rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Numbers of the program's rows and columns, where their values lie, and which of them there are."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    return row, col, row.to(tl.int64)[:, None] * width + col[None, :], (row < rows)[:, None] & (col < width)[None, :]


@triton.jit(do_not_specialize=SIZES)
def _bias_silu(x, bias, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    _, col, at, here = _place(rows, width, ROWS, COLS)
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    value += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    tl.store(x + at, (value * tl.sigmoid(value)).to(x.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=SIZES)
def _norm_add(x, weight, bias, residual, rows, width, eps, BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    _, col, at, here = _place(rows, width, ROWS, COLS)
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    added = tl.load(residual + at, mask=here, other=0.0).to(tl.float32)
    if BIAS:
        added += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    inverse = 1 / tl.sqrt(tl.sum(value * value, axis=1) / width + eps)
    times = tl.load(weight + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    tl.store(x + at, (value * inverse[:, None] * times + added).to(x.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=SIZES)
def _up_add(
    x, bias, coarse, rows, width, high, wide, coarse_width,
    REPEATS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, at, here = _place(rows, width, ROWS, COLS)
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    value += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    across, down = row % wide, row // wide % high
    above = (row // wide // high * (high // 2) + down // 2) * (wide // 2) + across // 2
    # channel 4c + 2·(row's parity) + (column's parity) of the repeated channels goes to channel c
    channel = (4 * col[None, :] + (2 * (down % 2) + across % 2)[:, None]) // REPEATS
    value += tl.load(coarse + above.to(tl.int64)[:, None] * coarse_width + channel, mask=here, other=0.0).to(tl.float32)
    tl.store(x + at, value.to(x.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=SIZES)
def _down_add(
    x, bias, fine, rows, width, high, wide, fine_width,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, at, here = _place(rows, width, ROWS, COLS)
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    value += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    across, down = row % wide, row // wide % high
    first = (row // wide // high * (2 * high) + 2 * down) * (2 * wide) + 2 * across
    total = tl.zeros_like(value)
    for number in tl.static_range(GROUP):
        # channel 4c + 2·i + j of the unshuffled map is channel c of the pixel i below and j to the right
        channel = col * GROUP + number
        pixel = first.to(tl.int64)[:, None] + (channel // 2 % 2 * (2 * wide) + channel % 2)[None, :]
        total += tl.load(fine + pixel * fine_width + (channel // 4)[None, :], mask=here, other=0.0).to(tl.float32)
    tl.store(x + at, (value + total / GROUP).to(x.dtype.element_ty), mask=here)
