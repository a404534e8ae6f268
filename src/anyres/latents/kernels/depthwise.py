"""Depthwise convolutions of odd sides, with zeros beyond the border, and what follows them in the same kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 32  # of a program
SIZES = ("pixels", "high", "wide")  # one compilation for all of them


def taps(weight: Tensor) -> Tensor:
    """A depthwise convolution's weight, (channels, 1, side, side) → (side², channels): what the kernels read."""
    return weight.flatten(1).t().contiguous()


def gated(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """The convolution plus bias; its first half of channels times the SiLU of its second."""
    images, high, wide, width = x.shape
    out = torch.empty(images, high, wide, width // 2, device=x.device, dtype=x.dtype)
    pixels, cols = images * high * wide, min(64, triton.next_power_of_2(width // 2))
    _gated[(triton.cdiv(pixels, PIXELS), triton.cdiv(width // 2, cols))](
        x, taps, bias, out, pixels, high, wide, width // 2, SIDE=_side(taps), PIXELS=PIXELS, COLS=cols, num_warps=4
    )
    return out


def grouped(x: Tensor, taps: Tensor, mixing: Tensor) -> Tensor:
    """The convolution, then a linear map of each group of neighbouring channels.

    Args:
        x: the maps.
        taps: of the convolution, which has no bias.
        mixing: (groups·size, size): the rows of each group's map, whose size is a power of two.
    """
    images, high, wide, width = x.shape
    out = torch.empty_like(x)
    pixels, size = images * high * wide, mixing.shape[1]
    _grouped[(triton.cdiv(pixels, PIXELS), width // size)](
        x, taps, mixing, out, pixels, high, wide, width, SIDE=_side(taps), PIXELS=PIXELS, COLS=size,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=4,
    )  # fmt: skip
    return out


def _side(taps: Tensor) -> int:
    return round(len(taps) ** 0.5)


@triton.jit
def _convolved(
    x, taps, pixel, col, inside, pixels, high, wide, stride, SIDE: tl.constexpr, PIXELS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Some pixels and channels of the convolution, float32."""
    across, down = pixel % wide, pixel // wide % high
    total = tl.zeros((PIXELS, COLS), tl.float32)
    for line in range(SIDE):
        below = line - SIDE // 2
        for place in tl.static_range(SIDE):
            right = place - SIDE // 2
            there = (across + right >= 0) & (across + right < wide) & (down + below >= 0) & (down + below < high)
            here = (there & (pixel < pixels))[:, None] & inside[None, :]
            at = (pixel + below * wide + right).to(tl.int64)[:, None] * stride + col[None, :]
            tap = taps + (line * SIDE + place) * stride
            weight = tl.load(tap + col[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
            total += tl.load(x + at, mask=here, other=0.0).to(tl.float32) * weight
    return total


@triton.jit(do_not_specialize=SIZES)
def _gated(
    x, taps, bias, out, pixels, high, wide, width, SIDE: tl.constexpr, PIXELS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = col < width
    value = _convolved(x, taps, pixel, col, inside, pixels, high, wide, 2 * width, SIDE, PIXELS, COLS)
    gate = _convolved(x, taps, pixel, width + col, inside, pixels, high, wide, 2 * width, SIDE, PIXELS, COLS)
    value += tl.load(bias + col, mask=inside, other=0.0).to(tl.float32)[None, :]
    gate += tl.load(bias + width + col, mask=inside, other=0.0).to(tl.float32)[None, :]
    at = pixel.to(tl.int64)[:, None] * width + col[None, :]
    here = (pixel < pixels)[:, None] & inside[None, :]
    tl.store(out + at, (value * gate * tl.sigmoid(gate)).to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=SIZES)
def _grouped(
    x, taps, mixing, out, pixels, high, wide, width, SIDE: tl.constexpr, PIXELS: tl.constexpr, COLS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    number = tl.arange(0, COLS)
    col = tl.program_id(1) * COLS + number
    inside = col < width
    value = _convolved(x, taps, pixel, col, inside, pixels, high, wide, width, SIDE, PIXELS, COLS)
    # (from, to): rows of the map are what it gives
    weight = tl.load(mixing + col[None, :] * COLS + number[:, None])
    mixed = tl.dot(value.to(x.dtype.element_ty), weight, input_precision=PRECISION)
    at = pixel.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=(pixel < pixels)[:, None] & inside[None, :])
