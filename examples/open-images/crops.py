"""Random crops of images that all lie in a device's memory."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from anyres.shapes import Float, Tensor

SCALES = (1.0, 0.71, 0.5)  # each image is kept at these
SHARES = (0.6, 0.2, 0.2)  # of the crops


class CropSampler:
    """Crops of random images at random places, mirrored or not; a gather, so that no host stands in the way.

    Args:
        images: RGB; one that is smaller than a crop is continued by its border.
        side: px of a crop.
        device: where the images are kept, at one byte a value.
        seed: of the choice.
    """

    def __init__(self, images: Sequence[Image.Image], side: int, device: torch.device, seed: int) -> None:
        self._side, self._device = side, device
        levels = [_at_least(_scaled(image, scale), side) for scale in SCALES for image in images]
        sizes = torch.tensor([level.shape[:2] for level in levels])
        self._pixels = torch.from_numpy(np.concatenate([level.reshape(-1, 3) for level in levels])).to(device)
        self._starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.prod(1).cumsum(0)[:-1]]).to(device)
        self._heights, self._widths = (column.to(device) for column in sizes.unbind(1))
        self._chances = torch.tensor(SHARES, device=device).repeat_interleave(len(images))
        self._random = torch.Generator(device).manual_seed(seed)

    def draw(self, count: int) -> Float[Tensor, "count 3 side side"]:
        """So many crops, in [−1, 1]."""
        chosen = torch.multinomial(self._chances, count, replacement=True, generator=self._random)
        heights, widths = self._heights[chosen], self._widths[chosen]
        top = (self._uniform(count) * (heights - self._side + 1)).long()
        left = (self._uniform(count) * (widths - self._side + 1)).long()
        offsets = torch.arange(self._side, device=self._device)
        mirrored = self._uniform(count) < 0.5
        columns = torch.where(mirrored[:, None], self._side - 1 - offsets, offsets)  # (count, side)
        rows = top[:, None] + offsets
        places = self._starts[chosen, None, None] + rows[:, :, None] * widths[:, None, None]
        pixels = self._pixels[places + left[:, None, None] + columns[:, None, :]]
        return rearrange(pixels, "n h w c -> n c h w").float() / 127.5 - 1

    def _uniform(self, count: int) -> Float[Tensor, "count"]:
        return torch.rand(count, device=self._device, generator=self._random)


def _scaled(image: Image.Image, scale: float) -> np.ndarray:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS))


def _at_least(pixels: np.ndarray, side: int) -> np.ndarray:
    rows, columns = (max(0, side - length) for length in pixels.shape[:2])
    padding = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(pixels, padding, mode="edge")
