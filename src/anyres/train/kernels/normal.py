"""A pack's noise, drawn on the device: `anyres.noise.normal_of`, from the same bits, in one pass."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCKS = 256  # of Philox, eight values each, that a program draws
WARPS = 4


def normal_of(key: Tensor, rows: int, columns: int) -> Tensor:
    """Standard normal float32 draws, (rows, columns).

    Args:
        key: two words, int64, on the device, which are read there: a recorded step may be given others.
        rows: of the result.
        columns: of the result.
    """
    values = torch.empty(rows, columns, device=key.device)
    grid = (triton.cdiv(values.numel(), 8 * BLOCKS),)
    _normal[grid](key, values, values.numel(), 2 * math.pi * 2.0**-32, BLOCKS, num_warps=WARPS)
    return values


@triton.jit
def _two(bits, turn: tl.constexpr):
    """The two values of 64 bits; `turn` is the angle of one."""
    low, high = (bits & 0xFFFFFFFF).to(tl.uint32), (bits >> 32).to(tl.uint32)
    radius = tl.sqrt_rn(-2.0 * tl.log((low.to(tl.float32) + 1.0) * 2.3283064365386963e-10))  # 2^-32
    angle = high.to(tl.float32) * turn
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def _normal(key, values, count, turn: tl.constexpr, BLOCKS: tl.constexpr):
    number = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    counter = (number + 1).to(tl.uint64)  # numpy's generator counts up before it draws
    zero = tl.zeros((BLOCKS,), tl.uint64)
    low, high = tl.load(key).to(tl.uint64, bitcast=True), tl.load(key + 1).to(tl.uint64, bitcast=True)
    words = tl.philox_impl(counter, zero, zero, zero, low + zero, high + zero)
    for place in tl.static_range(4):
        even, odd = _two(words[place], turn)
        at = 8 * number + 2 * place
        tl.store(values + at, even, mask=at < count)
        tl.store(values + at + 1, odd, mask=at + 1 < count)
