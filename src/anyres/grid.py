"""px ↔ cells ↔ tokens, the native resize rule, and the order of tokens: the one place for each.

An image of `Size` px is encoded to a latent of `Cells`; a token is a patch × patch square of cells, so a
latent has a `Grid` of tokens. All three are (height, width), and three types, so that one cannot be passed
for another. People write sizes as WIDTHxHEIGHT: on the command line and in file names only.

Cells and tokens are in row-major order: index = row · width + column. A token's values are laid out
(channels, patch, patch), flattened.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from einops import rearrange

from .errors import ConfigError, DataError
from .shapes import Float, Int, Tensor

SHAPES = ("tall, 1:2 or more", "tall", "near-square", "wide", "wide, 2:1 or more")
NATIVE_MAX_SIDE = 2048  # px; images of this area or more are first scaled to it


@dataclass(frozen=True, slots=True, order=True)
class _Extent:
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigError(
                f"got {type(self).__name__.lower()} of {self.width}x{self.height} (width x height)",
                wanted="a width and a height of at least 1",
                fix="use positive numbers",
            )

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def area(self) -> int:
        """Height · width, in the square of the unit."""
        return self.height * self.width


class Size(_Extent):
    """An image's (height, width) in px. `str()` and `parse` use the written form WIDTHxHEIGHT."""

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read "WIDTHxHEIGHT", or one number for a square.

        Raises:
            ConfigError: the text has another form, or a side of 0.
        """
        match = re.fullmatch(r"\s*(\d+)\s*(?:[x×X]\s*(\d+)\s*)?", text)
        if match is None:
            raise ConfigError(
                f"got size {text!r}", wanted="WIDTHxHEIGHT in px, such as 512x256", fix="write it in that form"
            )
        width, height = int(match[1]), int(match[2] or match[1])
        if width == 0 or height == 0:
            raise ConfigError(
                f"got size {text!r}", wanted="a width and a height of at least 1 px", fix="use positive numbers"
            )
        return cls(height, width)

    @property
    def shape(self) -> str:
        """One of `SHAPES`, by width to height: tall and wide begin at 4:5."""
        ratio = max(self.height, self.width) / min(self.height, self.width)
        kind = 0 if ratio < 1.25 else 1 if ratio < 2 else 2
        return SHAPES[2 + (kind if self.width > self.height else -kind)]

    def cells(self, px_per_cell: int) -> "Cells":
        """The latent's cells.

        Raises:
            ConfigError: a side is not a multiple of `px_per_cell`; the nearest sizes that are are named.
        """
        self._check_multiple(px_per_cell)
        return Cells(self.height // px_per_cell, self.width // px_per_cell)

    def grid(self, px_per_token: int) -> "Grid":
        """The grid of tokens.

        Raises:
            ConfigError: a side is not a multiple of `px_per_token`; the nearest sizes that are are named.
        """
        self._check_multiple(px_per_token)
        return Grid(self.height // px_per_token, self.width // px_per_token)

    def rounded(self, multiple: int) -> "Size":
        """The nearest size whose sides are multiples of `multiple` px (at least one)."""
        return Size(
            max(1, math.floor(self.height / multiple + 0.5)) * multiple,
            max(1, math.floor(self.width / multiple + 0.5)) * multiple,
        )

    def _check_multiple(self, multiple: int) -> None:
        if self.height % multiple or self.width % multiple:
            nearest = " or ".join(str(size) for size in _surrounding(self, multiple))
            raise ConfigError(
                f"got size {self} px (width x height)",
                wanted=f"sides that are multiples of {multiple} px",
                fix=f"use {nearest}, or round to the nearest (--round-size)",
            )


class Cells(_Extent):
    """A latent's (height, width) in cells."""

    def grid(self, patch: int) -> "Grid":
        """The grid of tokens.

        Raises:
            DataError: `patch` does not divide a side.
        """
        if self.height % patch or self.width % patch:
            raise DataError(
                f"got a latent of {self} cells (width x height)",
                wanted=f"sides that patch size {patch} divides",
                fix=f"prepare the images with --multiple-of-cells {patch}, or train with another patch size",
            )
        return Grid(self.height // patch, self.width // patch)

    def size(self, px_per_cell: int) -> Size:
        """The image's size in px."""
        return Size(self.height * px_per_cell, self.width * px_per_cell)


class Grid(_Extent):
    """An image's (height, width) in tokens."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.area

    def cells(self, patch: int) -> Cells:
        """The latent's cells at `patch` cells a side of a token."""
        return Cells(self.height * patch, self.width * patch)


def _surrounding(size: Size, multiple: int) -> list[Size]:
    """The sizes on `multiple` around one that is not, nearest first."""

    def sides(side: int) -> set[int]:
        return {max(1, side // multiple) * multiple, math.ceil(side / multiple) * multiple}

    found = [Size(height, width) for height in sides(size.height) for width in sides(size.width)]
    return sorted(found, key=lambda s: (abs(s.height - size.height) + abs(s.width - size.width), s.area))


def native_size(original: Size, multiple: int, max_side: int = NATIVE_MAX_SIDE) -> Size:
    """The size at which an image of its own shape is encoded: NiT's native resize rule.

    Each side is floored to a multiple (at least one). An image of `max_side`² px or more is first scaled to
    that area, keeping its shape: width' = max_side·√(width / height), height' = width'·height / width.

    Args:
        original: the image's size in px.
        multiple: px that the sides must be multiples of (32 for the released models).
        max_side: px; the side of the square whose area is the limit.
    """
    height, width = float(original.height), float(original.width)
    if original.area >= max_side**2:
        scaled_width = max_side * math.sqrt(width / height)
        height, width = scaled_width * height / width, scaled_width
    return Size(max(multiple, int(height) // multiple * multiple), max(multiple, int(width) // multiple * multiple))


def coordinates(grid: Grid) -> Int[Tensor, "tokens 2"]:
    """The (row, column) of each token, in row-major order, int32."""
    tokens = torch.arange(grid.tokens, dtype=torch.int32)
    # token n of an h × w image sits at row n div w, column n mod w
    return torch.stack([tokens // grid.width, tokens % grid.width], dim=1)


def patchify(latent: Float[Tensor, "cells channels"], cells: Cells, patch: int) -> Float[Tensor, "tokens values"]:
    """Cells in row-major order → tokens in row-major order, each (channels, patch, patch) flattened.

    Raises:
        DataError: `patch` does not divide the latent.
    """
    grid = cells.grid(patch)
    return rearrange(latent, "(h p w q) c -> (h w) (c p q)", h=grid.height, w=grid.width, p=patch, q=patch)


def unpatchify(
    tokens: Float[Tensor, "tokens values"], grid: Grid, patch: int
) -> Float[Tensor, "channels height width"]:
    """The tokens of one image → its latent as a (channels, cells high, cells wide) map."""
    return unpatchify_each(tokens, [grid], patch)[0]


def unpatchify_each(
    tokens: Float[Tensor, "tokens values"], grids: Sequence[Grid], patch: int
) -> list[Float[Tensor, "channels height width"]]:
    """The tokens of images end to end → the latent of each; neighbours of one grid in one pass."""
    runs = [(grid, len(list(same))) for grid, same in groupby(grids)]
    layout = "(n h w) (c p q) -> n c (h p) (w q)"
    return [
        latent
        for part, (grid, count) in zip(tokens.split([grid.tokens * count for grid, count in runs]), runs, strict=True)
        for latent in rearrange(part, layout, n=count, h=grid.height, w=grid.width, p=patch, q=patch).unbind(0)
    ]
