"""Large images in tiles that overlap and are blended, so that memory does not grow with the image."""

from collections.abc import Callable

import torch

from ..shapes import Float, Tensor

WHOLE_PX = 2**21  # px of an image that is still taken whole
TILE_PX, OVERLAP_PX = 1024, 256  # px a side


def in_tiles(
    run: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "batch _ _ _"],
    *,
    cells: tuple[int, int],
    px_per_cell: int,
    channels: int,
    finer: int,
) -> Float[Tensor, "batch _ _ _"]:
    """Run half an autoencoder over images, in tiles where they are larger than `WHOLE_PX`.

    All tiles are of one size and spread evenly, so none is a narrow rest that has hardly any surroundings. Of an
    overlap, the quarter next to a tile's cut is left out, as the network had to guess what lies beyond; over the rest,
    tiles are blended linearly.

    Args:
        run: encodes or decodes: (batch, channels, height, width), float32 out.
        inputs: images or latents.
        cells: height and width of the images.
        px_per_cell: px a side of a cell.
        channels: of what is made.
        finer: positions of what is made, a side of a cell.

    Returns:
        (batch, channels, height, width) as `run` gives it.
    """
    if cells[0] * cells[1] * px_per_cell**2 <= WHOLE_PX:
        return run(inputs)
    high, wide = (min(side, TILE_PX // px_per_cell) for side in cells)
    overlap = OVERLAP_PX // px_per_cell
    tops, lefts = starts(cells[0], high, overlap), starts(cells[1], wide, overlap)
    down = shares(tops, high, overlap, finer).to(inputs.device)
    across = shares(lefts, wide, overlap, finer).to(inputs.device)
    scale = inputs.shape[2] // cells[0]  # positions of the inputs, a side of a cell
    made = inputs.new_zeros(len(inputs), channels, cells[0] * finer, cells[1] * finer)
    for top, of_rows in zip(tops, down, strict=True):
        for left, of_columns in zip(lefts, across, strict=True):
            part = run(inputs[:, :, top * scale : (top + high) * scale, left * scale : (left + wide) * scale])
            place = made[:, :, top * finer : (top + high) * finer, left * finer : (left + wide) * finer]
            place += part * of_rows[:, None] * of_columns
    return made


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, in cells: evenly spread, neighbours sharing at least the overlap.

    Args:
        side: of the image.
        tile: of a tile, at most the image's.
        overlap: less than a tile.
    """
    gaps = -(-(side - tile) // (tile - overlap))
    return [i * (side - tile) // gaps for i in range(gaps)] + [side - tile]


def shares(starts: list[int], tile: int, overlap: int, finer: int) -> Float[Tensor, "tiles positions"]:
    """How much each tile counts along one axis, at each of its own positions; over all tiles it sums to 1.

    Args:
        starts: in cells.
        tile: cells of a tile.
        overlap: cells.
        finer: positions a cell.
    """
    side = starts[-1] + tile
    where = torch.arange(tile * finer, dtype=torch.float32) + 0.5
    total = torch.zeros(side * finer)
    ramps = []
    for start in starts:
        ramp = torch.ones(tile * finer)
        for distance, cut in ((where, start > 0), (where.flip(0), start + tile < side)):
            if cut:
                ramp *= ((distance / finer - overlap / 4) / (overlap / 2)).clamp(0, 1)
        total[start * finer : (start + tile) * finer] += ramp
        ramps.append(ramp)
    return torch.stack(
        [ramp / total[start * finer : (start + tile) * finer] for start, ramp in zip(starts, ramps, strict=True)]
    )
