"""Further versions of an image in other shapes and sizes, never squeezed: crops, canvases for cut-outs, reductions.

So each kind of object is seen in shapes that its images do not come in. Every choice follows from the image's content
and the version's number alone.
"""

import math

import numpy as np
from PIL import Image

from .. import noise

STEEPEST = 2.5  # greatest ratio of a version's sides
KEPT = 0.4  # of a photograph's area, at least
MARGIN = 1.2  # of a canvas's sides, at most
SMALLEST = 0.5  # of max_side: versions are of any size down to this
PLAIN = 0.4  # share of a border's px that must be of one colour, for a cut-out
TOLERANCE = 8  # of 255, in each channel: compression spoils a plain ground a little


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The largest part of another shape, anywhere in the image; at least `KEPT` of its area stays."""
    own = image.width / image.height
    shape = min(max(_shape(rng), own * KEPT), own / KEPT)
    width = image.width if shape > own else max(1, round(image.height * shape))
    height = max(1, round(image.width / shape)) if shape > own else image.height
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def canvas(image: Image.Image, rng: np.random.Generator) -> Image.Image | None:
    """The whole image, about the middle of a wider or taller ground of its border's colour.

    None if the border is not plain, or the canvas, as of a line, would be larger than an image that is safe to decode.
    """
    ground = plain_ground(image)
    if ground is None:
        return None
    own, shape, margin = image.width / image.height, _shape(rng), float(rng.uniform(1, MARGIN))
    width = round(margin * (image.width if shape < own else image.height * shape))
    height = round(margin * (image.height if shape > own else image.width / shape))
    width, height = max(width, image.width), max(height, image.height)
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        return None
    made = Image.new("RGB", (width, height), ground)
    made.paste(image, (_place(width - image.width, rng), _place(height - image.height, rng)))
    return made


def whole(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    """The image as it is, of which versions differ in size alone."""
    return image


def plain_ground(image: Image.Image) -> tuple[int, int, int] | None:
    """The colour that most of an image's border has, or None."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colours, counts = np.unique(border, axis=0, return_counts=True)
    common = colours[counts.argmax()]
    near = np.abs(border.astype(int) - common).max(axis=1) <= TOLERANCE
    red, green, blue = common.tolist()
    return (red, green, blue) if near.mean() >= PLAIN else None


def version_side(max_side: int, rng: np.random.Generator) -> int:
    """The `max_side` of a version, px: as many of each size, by the logarithm."""
    return round(max_side * SMALLEST ** rng.random())


def choices(content_hash: str, number: int) -> np.random.Generator:
    """Where a version's choices come from."""
    return noise.generator("reshaped", content_hash, number)


def _place(free: int, rng: np.random.Generator) -> int:
    """Where an image begins: its middle in the middle half of the canvas's free px, where objects mostly are."""
    return round(free * float(rng.uniform(0.25, 0.75)))


def _shape(rng: np.random.Generator) -> float:
    """Width over height, as many tall as wide."""
    return math.exp(float(rng.uniform(-1, 1)) * math.log(STEEPEST))
