"""Images brought to one size by a stated protocol: what is measured depends on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..grid import Size, native_size
from ..prepare.images import RejectedImageError, resize
from ..prepare.variants import ahead
from .sources import Source


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How images are brought to the size that they are measured at; bicubic (with antialiasing) throughout.

    Attributes:
        size: px: the largest centred crop of this shape, then resized. None: as the next.
        max_side: px: images of this side squared or more are reduced to that area, as `anyres prepare` does, keeping
            their shape; None: each keeps its own size.
        multiple: px that sides are floored to multiples of, with `max_side`.
        upscale: whether images smaller than `size` are enlarged; otherwise they are left out.
    """

    size: Size | None = None
    max_side: int | None = None
    multiple: int = 1
    upscale: bool = False

    def __str__(self) -> str:
        if self.size is not None:
            smaller = "enlarged" if self.upscale else "left out"
            return f"largest centred crop of the shape, bicubic to {self.size}; smaller images {smaller}"
        if self.max_side is not None:
            return f"own shape, bicubic to at most {self.max_side}² px, sides floored to multiples of {self.multiple}"
        return "each image at its own size"

    def size_of(self, image: Size) -> Size | None:
        """The size that an image is measured at, or None for one that is left out."""
        if self.size is not None:
            too_small = image.height < self.size.height or image.width < self.size.width
            return None if too_small and not self.upscale else self.size
        if self.max_side is None:
            return image
        # an image that was made by the rule is as it should be: rounding must not take another row off it
        made = image.area <= self.max_side**2 and not (image.height % self.multiple or image.width % self.multiple)
        return image if made else native_size(image, self.multiple, self.max_side)

    def apply(self, image: Image.Image) -> Image.Image | None:
        """The picture to be measured, or None for one that is left out."""
        wanted = self.size_of(Size(image.height, image.width))
        if wanted is None or self.size is None:
            return wanted and resize(image, wanted)
        # the largest box of the wanted shape: either its whole width or its whole height
        scale = min(image.width / wanted.width, image.height / wanted.height)
        width, height = (
            max(1, min(round(side * scale), limit))
            for side, limit in ((wanted.width, image.width), (wanted.height, image.height))
        )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return resize(image.crop((left, top, left + width, top + height)), wanted)


@dataclass(kw_only=True)
class Counts:
    """What became of a source's images.

    Attributes:
        unreadable: those that could not be read.
        small: those left out for being smaller than the size.
    """

    unreadable: int = 0
    small: int = 0

    def __str__(self) -> str:
        return f"{self.unreadable} cannot be read, {self.small} are smaller than the size"

    @property
    def left_out(self) -> str:
        """What a message adds of them: nothing where none were left out."""
        return f" ({self})" if self.unreadable + self.small else ""

    @property
    def remedy(self) -> str:
        """What a fix adds to more images."""
        return ", a smaller --size, or --upscale" if self.small else ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """An image ready to be measured.

    Attributes:
        name: of the image in its source.
        label: of the image.
        content_hash: of the image as it was, not as it is framed.
        pixels: (height, width, 3) uint8.
    """

    name: str
    label: str
    content_hash: str
    pixels: np.ndarray


def pictures(
    source: Source, framing: Framing, counts: Counts, *, workers: int, chosen: Sequence[int] | None = None
) -> Iterator[Picture]:
    """The images of a source, framed, in order; counts what is left out.

    Args:
        source: the images.
        framing: how they are brought to size.
        counts: filled on the way.
        workers: threads that decode.
        chosen: numbers of the images; by default all.
    """
    names, labels = source.names, source.labels

    def load(index: int) -> Picture | str:
        try:
            image = source.read(index)
            framed = framing.apply(image.pixels)
        except RejectedImageError:
            return "unreadable"
        if framed is None:
            return "small"
        return Picture(
            name=names[index], label=labels[index], content_hash=image.content_hash, pixels=np.asarray(framed)
        )

    for found in ahead(load, range(len(names)) if chosen is None else chosen, workers):
        if isinstance(found, str):
            setattr(counts, found, getattr(counts, found) + 1)
        else:
            yield found
