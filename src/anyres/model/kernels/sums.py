"""Sums over the rows of a matrix, in a fixed order: what gradients of biases and of norms' weights are."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 1024  # that one program adds up
# rows at once, columns: of many rows, and of as many as one program adds up, whose columns have to fill the device
WIDE, NARROW = {"STEP": 32, "BLOCK": 128}, {"STEP": 256, "BLOCK": 32}


def over_rows(x: Tensor, out: Tensor) -> Tensor:
    """Write the sum over the rows of `x`, made in float32, into `out`, of any dtype and as many values as a row."""
    rows, width = len(x), out.numel()
    parts = triton.cdiv(rows, ROWS)
    tile = NARROW if parts == 1 else WIDE
    partial = out if parts == 1 else torch.empty(parts, width, device=x.device, dtype=torch.float32)
    _sum_rows[(triton.cdiv(width, tile["BLOCK"]), parts)](x, partial, rows, width, ROWS=ROWS, **tile)
    return out if parts == 1 else over_rows(partial, out)


@triton.jit
def _sum_rows(x, out, rows, width, ROWS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.program_id(1)
    inside = cols < width
    total = tl.zeros((STEP, BLOCK), tl.float32)  # threads add up by themselves, and together at the end
    for first in range(part * ROWS, tl.minimum((part + 1) * ROWS, rows), STEP):
        row = first + tl.arange(0, STEP)
        at = row[:, None].to(tl.int64) * width + cols[None, :]
        here = (row < rows)[:, None] & inside[None, :]
        total += tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    tl.store(out + part * width + cols, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=inside)
