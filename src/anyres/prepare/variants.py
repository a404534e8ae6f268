"""From an image file to the pictures that are encoded of it, in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from ..grid import Size, native_size
from ..latents.writer import Rejected, Row
from . import reshape
from .found import SourceImage
from .images import (
    DecodedImage,
    RejectedImageError,
    UnreadableImageError,
    centre_crop,
    decode_bytes,
    resize,
)
from .options import PrepareOptions

RESHAPED = "reshaped-"
SQUARES: dict[str, int] = {"square-256": 256, "square-512": 512}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """A variant of an image, ready to be encoded.

    Attributes:
        image: what it was made of.
        row: what the dataset will say of it.
        pixels: (height, width, 3) uint8.
    """

    image: SourceImage
    row: Row
    pixels: np.ndarray


def make_pictures(options: PrepareOptions, found: SourceImage, px_per_cell: int) -> tuple[Picture, ...] | Rejected:
    """Decode an image and make its variants; squares larger than the image are left out, unless it may be enlarged."""
    try:
        image = decode_bytes(found.read())
        pictures = tuple(_variants(options, found, image, px_per_cell))
        if not pictures:
            raise RejectedImageError(  # noqa: TRY301
                f"it is {image.size} px, too small for {', '.join(options.variants)} without --upscale"
            )
    except UnreadableImageError as error:
        return Rejected(source=found.source, reason=str(error), stamp="")
    except RejectedImageError as error:
        return Rejected(source=found.source, reason=str(error), stamp=found.stamp())
    return pictures


def ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results in order, computed in threads a few items ahead of the one asked for."""
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _variants(options: PrepareOptions, found: SourceImage, image: DecodedImage, px_per_cell: int) -> Iterator[Picture]:
    for variant, pixels in _versions(options, found.label, image, px_per_cell * options.multiple_of_cells):
        cells = Size(pixels.height, pixels.width).cells(px_per_cell)
        row = Row(
            source=found.source,
            label=found.label,
            original=(image.size.height, image.size.width),
            image=(pixels.height, pixels.width),
            cells=(cells.height, cells.width),
            variant=variant,
            content_hash=image.content_hash,
        )
        yield Picture(image=found, row=row, pixels=np.asarray(pixels))


def _versions(
    options: PrepareOptions, label: str, image: DecodedImage, multiple: int
) -> Iterator[tuple[str, Image.Image]]:
    """Every version of an image by its name, at the size that it is encoded at."""
    further = range(1, options.versions + 1) if label in options.labels_reshaped else ()
    for name in (*options.variants, *(f"{RESHAPED}{number}" for number in further)):
        pixels = version(options, label, image, name, multiple)
        if pixels is not None:
            yield name, pixels


def version(options: PrepareOptions, label: str, image: DecodedImage, name: str, multiple: int) -> Image.Image | None:
    """One version of an image, at the size that it is encoded at; None where the image is too small for it.

    Args:
        options: of the preparation.
        label: the image's.
        image: decoded.
        name: of a variant, or reshaped-1 and so on.
        multiple: px that sides are multiples of.
    """
    if not name.startswith(RESHAPED):
        return _resized(options, image, name, multiple)
    ways = ((options.crop, reshape.crop), (options.canvas, reshape.canvas), (options.rescale, reshape.whole))
    change = next((way for labels, way in ways if label in labels), None)
    if change is None:
        return None
    rng = reshape.choices(image.content_hash, int(name.removeprefix(RESHAPED)))
    changed = change(image.pixels, rng)
    if changed is None:
        return None
    return _at_own_shape(options, changed, multiple, reshape.version_side(options.max_side, rng))


def _resized(options: PrepareOptions, image: DecodedImage, variant: str, multiple: int) -> Image.Image | None:
    if variant == "native":
        return _at_own_shape(options, image.pixels, multiple, options.max_side)
    side = SQUARES[variant]
    if min(image.size.height, image.size.width) < side and not options.upscale:
        return None
    return centre_crop(image.pixels, side)


def _at_own_shape(options: PrepareOptions, image: Image.Image, multiple: int, max_side: int) -> Image.Image:
    own = Size(image.height, image.width)
    size = native_size(own, multiple, max_side)
    # a side of at least one cell makes a line of 1 × 89 million px larger than the disk holds
    if size.area > 2 * max(options.max_side, multiple) ** 2:
        raise RejectedImageError(f"its shape is too extreme: {own} px would be encoded at {size}")
    return resize(image, size)
