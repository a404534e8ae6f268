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


def sums_by_image(partial: Tensor, pieces: Pieces) -> Tensor:
    """(pieces, values, width) float32 sums of pieces → (images, values, width) of images."""
    images, values = len(pieces.first) - 1, partial[0].numel()
    out = torch.empty(images, *partial.shape[1:], device=partial.device, dtype=torch.float32)
    block = 256
    _sum_pieces[(images, triton.cdiv(values, block))](partial, pieces.first, out, values, STEP=8, BLOCK=block)
    return out


@triton.jit
def _sum_pieces(partial, first, out, values, STEP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < values
    end = tl.load(first + row + 1).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for piece in range(tl.load(first + row).to(tl.int64), end, STEP):
        pieces = piece + tl.arange(0, STEP)
        here = (pieces < end)[:, None] & inside[None, :]
        total += tl.sum(tl.load(partial + pieces[:, None] * values + cols[None, :], mask=here, other=0.0), axis=0)
    tl.store(out + row * values + cols, total, mask=inside)
