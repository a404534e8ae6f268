"""What an image may start from instead of noise alone: a picture, how it lies on the image, and what of it stays."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..config import require, suggestion
from ..errors import ConfigError, DataError
from ..grid import Size, native_size
from ..prepare.images import RejectedImageError, decode, upright_rgb
from .canvas import Canvas, lay

PLACES = ("crop", "stretch", "extend")
STRENGTH = 0.6  # of a picture that neither a mask nor its place keeps a part of
WHITE = 128  # a mask's px from this level on are made anew


class Start:
    """A picture to start from.

    Args:
        picture: an image, or the path of one: turned upright by EXIF, alpha over white.
        strength: how far what is not kept is made anew, from 0 (not) to 1 (from noise alone): the time t at which it
            leaves the picture's noisy version. By default 1 with a mask, 0 where the place leaves a rest to be made
            ("extend" or an offset), else 0.6.
        mask: of the picture's size: white is made anew, black stays. A token stays where all of it is black.
        place: how a picture lies on an image of another size. "crop": scaled until it covers the image, and the middle
            taken. "stretch": scaled to the image's size, shape and all. "extend": scaled until the whole of it just
            fits, and the rest made. (left, top), or text as "LEFT,TOP": as it is, that many px into the image, and the
            rest made.
        paste: put the px that stay back over the finished image, which else has them as the autoencoder gives them.

    Attributes:
        own_size: of the picture.

    Raises:
        ConfigError: a strength outside [0, 1], an unknown place, or a mask of another size.
        DataError: a file that cannot be read.
    """

    def __init__(
        self,
        picture: Image.Image | str | Path,
        *,
        strength: float | None = None,
        mask: Image.Image | str | Path | None = None,
        place: str | tuple[int, int] = "crop",
        paste: bool = True,
    ) -> None:
        self._picture, self._recipe = _read(picture)
        self._place, self._offset = place, _offset(place)
        self._mask = None
        if mask is not None:
            read, recipe = _read(mask)
            require(
                read.size == self._picture.size,
                f"a mask of {_size(read)} px on a picture of {self.own_size} px (width x height)",
                "a mask of the picture's size",
                "scale the mask; white is made anew, black stays",
            )
            self._mask = read.convert("L").point([0] * WHITE + [255] * (256 - WHITE))
            self._recipe |= {"mask": recipe["picture"], "mask_sha256": recipe["sha256"]}
        extends = place not in ("crop", "stretch")
        default = 1.0 if mask is not None else 0.0 if extends else STRENGTH
        self._strength, self._paste = default if strength is None else strength, paste
        require(0 <= self._strength <= 1, f"strength {self._strength}", "0 (the picture) to 1 (all made anew)")
        self._recipe |= {"strength": self._strength, "place": place, "paste": paste}

    @property
    def own_size(self) -> Size:
        """The picture's (height, width) in px."""
        return _size(self._picture)

    def fitted_size(self, px_per_token: int) -> Size:
        """The size of an image that is to be like the picture: each side floored to whole tokens, as in training."""
        return native_size(self.own_size, px_per_token)

    def laid_on(self, size: Size, px_per_token: int) -> Canvas:
        """The picture on an image.

        Args:
            size: of the image.
            px_per_token: px a side of a token.

        Raises:
            ConfigError: an offset that is not whole tokens or leads outside, or nothing that is to be made.
        """
        scaled, left, top = self._scaled(self._picture, size, Image.Resampling.BICUBIC, px_per_token)
        pixels, shown = lay(scaled, size, left, top)
        kept = shown if self._strength == 0 else np.zeros_like(shown)
        if self._mask is not None:
            mask, left, top = self._scaled(self._mask, size, Image.Resampling.BILINEAR, px_per_token)
            # whatever touches white is made anew
            kept = shown & (np.asarray(lay(mask, size, left, top)[0]) == 0)
        canvas = Canvas(
            pixels=pixels, shown=shown, kept=kept, strength=self._strength, paste=self._paste, recipe=self._recipe
        )
        require(
            bool((canvas.release(px_per_token) > 0).any()),
            f"a picture of which all stays, on an image of {size} px",
            "some of the image to be made",
            "raise the strength, whiten a part of the mask, or use a place that leaves a rest to be made",
        )
        return canvas

    def _scaled(
        self, image: Image.Image, size: Size, filter_: Image.Resampling, px_per_token: int
    ) -> tuple[Image.Image, int, int]:
        """The picture or its mask as it lies on an image, and how many px from its left and its top."""
        wanted = (size.width, size.height)
        if self._offset is not None:
            self._check_offset(*self._offset, size, px_per_token)
            return image, *self._offset
        if self._place == "crop":
            return ImageOps.fit(image, wanted, filter_), 0, 0
        if self._place == "stretch":
            return image.resize(wanted, filter_), 0, 0
        image = ImageOps.contain(image, wanted, filter_)
        # in the middle, on whole tokens
        left, top = (
            round((whole - part) / 2 / px_per_token) * px_per_token
            for whole, part in zip(wanted, image.size, strict=True)
        )
        return image, left, top

    def _check_offset(self, left: int, top: int, size: Size, px_per_token: int) -> None:
        require(
            left % px_per_token == 0 and top % px_per_token == 0,
            f"place {left},{top} px",
            f"multiples of {px_per_token} px, so that tokens are those of the picture",
            f"use {','.join(str(round(px / px_per_token) * px_per_token) for px in (left, top))}",
        )
        require(
            left + self.own_size.width <= size.width and top + self.own_size.height <= size.height,
            f"a picture of {self.own_size} px at {left},{top} on an image of {size} px (width x height)",
            "an image that holds all of it",
            "make the image larger, or use the place extend, which scales the picture",
        )


def _read(image: Image.Image | str | Path) -> tuple[Image.Image, dict[str, Any]]:
    """RGB px, and what a recipe says of them: a file's name and hash, or the hash of px from memory."""
    try:
        if isinstance(image, Image.Image):
            pixels = upright_rgb(image)
            return pixels, {"picture": None, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
        path = Path(image).expanduser()
        decoded = decode(path)
    except RejectedImageError as error:
        raise DataError(
            f"{image} cannot be used: {error}",
            wanted="a picture that can be read, such as a PNG or JPEG file",
            fix="check the path, or convert the picture",
        ) from None
    return decoded.pixels, {"picture": path.name, "sha256": decoded.content_hash}


def _size(image: Image.Image) -> Size:
    return Size(image.height, image.width)


def _offset(place: str | tuple[int, int]) -> tuple[int, int] | None:
    """(left, top) in px, from a place that is one."""
    if not isinstance(place, str):
        require(len(place) == 2 and min(place) >= 0, f"place {place}", "(left, top) in px, 0 or more")
        return place
    if place in PLACES:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", place)
    if match is None:
        raise ConfigError(
            f"got place {place!r}",
            wanted=f"one of {', '.join(PLACES)}, or LEFT,TOP in px such as 128,0",
            fix=suggestion(place, PLACES) or "use one of them",
        )
    return int(match[1]), int(match[2])
