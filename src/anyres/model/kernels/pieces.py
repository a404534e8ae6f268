"""A pack cut into pieces of consecutive tokens of one image.

A program works on one piece, so that it loads its image's modulation once and sums gradients of the modulation in
registers; a second kernel adds up the pieces of each image in order.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

PIECE = 32  # tokens of a piece, at most


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of a pack; their number depends on its static shape alone.

    Attributes:
        bounds: (pieces, 3) int32: first token, end, row of the image; first = end in pieces that are not used.
        first: (images + 1,) int32: number of the first piece of each row.
    """

    bounds: Tensor
    first: Tensor


def cut(cu_seqlens: Tensor, tokens: int, longest: int = PIECE) -> Pieces:
    """Cut a pack; never waits for the device.

    Args:
        cu_seqlens: (images + 1,) int32, cumulative lengths of the segments.
        tokens: length of the pack, padding included.
        longest: tokens of a piece, at most.
    """
    images = len(cu_seqlens) - 1
    counts = -(-cu_seqlens.diff() // longest)
    first = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    number = torch.arange(-(-tokens // longest) + images, device=cu_seqlens.device, dtype=torch.int32)
    row = torch.searchsorted(first, number, right=True, out_int32=True) - 1
    used = row < images
    row = row.clamp(max=images - 1)
    start = torch.where(used, cu_seqlens[row] + (number - first[row]) * longest, 0)
    end = torch.where(used, torch.minimum(start + longest, cu_seqlens[row + 1]), 0)
    return Pieces(torch.stack([start, end, row], dim=1).to(torch.int32), first)


def sums_by_image(partial: Tensor, pieces: Pieces, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(pieces, values, width) float32 sums of pieces → (images, values, width) of images, and the last of the values.

    The former are in `dtype`, that of the vectors which they are gradients of; the last ones are there in float32, too,
    (images, width), for who goes on with them.
    """
    images, (values, width) = len(pieces.first) - 1, partial.shape[1:]
    out = torch.empty(images, values, width, device=partial.device, dtype=dtype)
    last = torch.empty(images, width, device=partial.device, dtype=torch.float32)
    block = 256
    _sum_pieces[(images, triton.cdiv(values * width, block))](
        partial, pieces.first, out, last, values * width, width, STEP=8, BLOCK=block
    )
    return out, last


@triton.jit
def _sum_pieces(partial, first, out, last, values, width, STEP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < values
    end = tl.load(first + row + 1).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for piece in range(tl.load(first + row).to(tl.int64), end, STEP):
        pieces = piece + tl.arange(0, STEP)
        here = (pieces < end)[:, None] & inside[None, :]
        total += tl.sum(tl.load(partial + pieces[:, None] * values + cols[None, :], mask=here, other=0.0), axis=0)
    tl.store(out + row * values + cols, total.to(out.dtype.element_ty), mask=inside)
    of_last = cols - (values - width)
    tl.store(last + row * width + of_last, total, mask=inside & (of_last >= 0))


def weighted_sum(weights: Tensor, vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """Of (images, width) each: Σ weights·vectors over the images, (width,) in `dtype`."""
    images, width = vectors.shape
    out = torch.empty(width, device=vectors.device, dtype=dtype)
    _weighted_sum[(triton.cdiv(width, 32),)](weights, vectors, out, images, width, weights.stride(0), STEP=32, BLOCK=32)
    return out


@triton.jit
def _weighted_sum(weights, vectors, out, images, width, stride, STEP: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for image in range(0, images, STEP):
        rows = (image + tl.arange(0, STEP)).to(tl.int64)
        here = (rows < images)[:, None] & (cols < width)[None, :]
        weight = tl.load(weights + rows[:, None] * stride + cols[None, :], mask=here, other=0.0).to(tl.float32)
        total += tl.sum(weight * tl.load(vectors + rows[:, None] * width + cols[None, :], mask=here, other=0.0), axis=0)
    tl.store(out + cols, total.to(out.dtype.element_ty), mask=cols < width)
