"""A folder of images, brought to one size by a stated protocol: what is measured depends on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..grid import Size
from ..prepare.images import ImageFile, RejectedImageError, decode, find_images, resize
from ..prepare.variants import ahead
from ..sample.writer import SHEET


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How images are brought to one size: the largest centred crop of its shape, then bicubic.

    Attributes:
        size: px, or None: every image keeps its own.
        upscale: whether smaller images are enlarged; otherwise they are left out.
    """

    size: Size | None = None
    upscale: bool = False

    def __str__(self) -> str:
        if self.size is None:
            return "each image at its own size"
        smaller = "enlarged" if self.upscale else "left out"
        return f"largest centred crop of the shape, bicubic to {self.size}; smaller images {smaller}"

    def apply(self, image: Image.Image) -> Image.Image | None:
        """The picture to be measured, or None for one that is left out."""
        if self.size is None:
            return image
        wanted = self.size
        # the largest box of the wanted shape: either its whole width or its whole height
        scale = min(image.width / wanted.width, image.height / wanted.height)
        if scale < 1 and not self.upscale:
            return None
        width, height = (
            min(round(side * scale), limit)
            for side, limit in ((wanted.width, image.width), (wanted.height, image.height))
        )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return resize(image.crop((left, top, left + width, top + height)), wanted)


@dataclass(kw_only=True)
class Counts:
    """What became of a folder's images.

    Attributes:
        used: those that were measured.
        unreadable: those that could not be read.
        small: those left out for being smaller than the size.
    """

    used: int = 0
    unreadable: int = 0
    small: int = 0


def find(folder: Path) -> tuple[ImageFile, ...]:
    """The images of a folder, in order, without the contact sheets that `anyres sample` writes beside its images.

    Raises:
        DataError: there is no such folder, or it holds no image.
    """
    sheet = Path(SHEET).stem
    return tuple(file for file in find_images(folder).files if not Path(file.source).stem.startswith(sheet))


def batches(
    folder: Path, files: Sequence[ImageFile], framing: Framing, counts: Counts, *, batch: int, workers: int
) -> Iterator[np.ndarray]:
    """Consecutive pictures of equal size together, (images, height, width, 3) uint8; counts what is left out.

    Args:
        folder: where the files are.
        files: the images.
        framing: how they are brought to one size.
        counts: filled on the way.
        batch: most images together.
        workers: threads that decode.
    """

    def load(file: ImageFile) -> np.ndarray | str:
        try:
            picture = framing.apply(decode(folder / file.source).pixels)
        except RejectedImageError:
            return "unreadable"
        return "small" if picture is None else np.asarray(picture)

    waiting: list[np.ndarray] = []
    for found in ahead(load, files, workers):
        if isinstance(found, str):
            setattr(counts, found, getattr(counts, found) + 1)
            continue
        counts.used += 1
        if waiting and (len(waiting) == batch or waiting[0].shape != found.shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(found)
    if waiting:
        yield np.stack(waiting)
