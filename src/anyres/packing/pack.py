"""What a pack is: the tokens of several images laid end to end, and the static shape it is padded to."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np
import torch

from ..errors import ConfigError
from ..grid import Grid, coordinates
from ..shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, slots=True)
class PackShape:
    """The static shape of a pack: what a compiled region may depend on.

    Attributes:
        tokens: length of the sequence, in tokens, padding included.
        images: rows of per-image tensors (labels, t, modulation), padding included.
        max_seqlen: an upper bound on an image's tokens, and on a padding segment's.
    """

    tokens: int
    images: int
    max_seqlen: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.images, self.max_seqlen) < 1:
            raise ConfigError(
                f"got {self}", wanted="at least one token, one image and max_seqlen 1", fix="use positive numbers"
            )

    @classmethod
    def fitting(cls, tokens: int, images: int, max_seqlen: int) -> "PackShape":
        """The smallest shape that fits every pack within these bounds, whatever padding it then needs.

        Args:
            tokens: most real tokens of a pack.
            images: most images of a pack.
            max_seqlen: most tokens of an image.
        """
        # padding segments need rows too: at most all tokens but one an image, in pieces of max_seqlen
        return cls(tokens, images + -(-tokens // max_seqlen), max_seqlen)


@dataclass(frozen=True, eq=False, kw_only=True)
class PackLayout:
    """All of a pack that depends only on its images' grids; built once a pack, on the host.

    Rows of per-image tensors are the images in order, then padding segments, then empty segments. Padding
    tokens form segments of at most `shape.max_seqlen` tokens that attend to themselves and that no loss sees;
    an empty segment has a row that no token uses. So padding shows in no result.

    Attributes:
        grids: the real images' grids; host only, never read in a compiled region.
        shape: the static shape.
        positions: (row, column) of each token in its image, int32; row-major whatever the model's order.
        image_index: the row of each token's image.
        extents: (height, width) of each row's grid, in tokens, int32; 1 × 1 for padding.
        cu_seqlens: cumulative lengths of the segments, from 0, int32.
    """

    grids: tuple[Grid, ...]
    shape: PackShape
    positions: Int[Tensor, "tokens axes"]
    image_index: Int[Tensor, "tokens"]
    extents: Int[Tensor, "images axes"]
    cu_seqlens: Int[Tensor, "boundaries"]

    @classmethod
    def from_grids(cls, grids: Sequence[Grid], shape: PackShape | None = None) -> "PackLayout":
        """Lay images end to end.

        Args:
            grids: one a image, in order.
            shape: the shape to pad to; by default the exact one, without padding.

        Raises:
            ConfigError: no image, or the images do not fit the shape.
        """
        if not grids:
            raise ConfigError("got a pack of no images", wanted="at least one image", fix="pass their grids")
        tokens = sum(grid.tokens for grid in grids)
        longest = max(grid.tokens for grid in grids)
        shape = shape or PackShape(tokens, len(grids), longest)
        lengths = _segments([grid.tokens for grid in grids], shape)
        padding = shape.tokens - tokens
        positions = torch.cat([_coordinates(grid) for grid in grids])
        extents = torch.ones(shape.images, 2, dtype=torch.int32)
        extents[: len(grids)] = torch.tensor([(grid.height, grid.width) for grid in grids], dtype=torch.int32)
        return cls(
            grids=tuple(grids),
            shape=shape,
            positions=torch.nn.functional.pad(positions, (0, 0, 0, padding)),
            image_index=torch.from_numpy(np.repeat(np.arange(shape.images), lengths)),
            extents=extents,
            cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        )

    @property
    def images(self) -> int:
        """Number of real images."""
        return len(self.grids)

    @cached_property
    def tokens(self) -> int:
        """Number of real tokens; they come first."""
        return sum(grid.tokens for grid in self.grids)

    @cached_property
    def segments(self) -> tuple[int, ...]:
        """Length in tokens of each row's segment, padding and empty ones included; host only."""
        return tuple(_segments([grid.tokens for grid in self.grids], self.shape))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.cu_seqlens.device

    def is_real(self) -> Bool[Tensor, "tokens"]:
        """True for the tokens of images, False for padding."""
        return self.image_index < self.images

    def split(self, tokens: Float[Tensor, "tokens *values"]) -> tuple[Tensor, ...]:
        """The rows of each real image, in order; views."""
        return torch.split(tokens[: self.tokens], [grid.tokens for grid in self.grids])

    def padded(self, shape: PackShape) -> "PackLayout":
        """The same images in another shape, on the same device.

        Raises:
            ConfigError: the images do not fit the shape.
        """
        return PackLayout.from_grids(self.grids, shape).to(self.device)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PackLayout":
        """The layout with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS}
        return dataclasses.replace(self, **moved)

    def clone(self) -> "PackLayout":
        """The layout with tensors of its own."""
        return dataclasses.replace(self, **{name: getattr(self, name).clone() for name in _TENSORS})

    def copy_(self, other: "PackLayout") -> None:
        """Take over the tensors of another layout of the same shape, in place, without waiting."""
        for name in _TENSORS:
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)

    def pin_memory(self) -> "PackLayout":
        """The layout in page-locked memory, from where it can be moved without waiting."""
        return dataclasses.replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})


_TENSORS = ("positions", "image_index", "extents", "cu_seqlens")


_coordinates = lru_cache(maxsize=1024)(coordinates)  # sizes recur, and a pack has hundreds of images


def _segments(lengths: list[int], shape: PackShape) -> list[int]:
    """The length of each row's segment: images, then padding, then empty ones."""
    tokens, longest = sum(lengths), max(lengths)
    padding = shape.tokens - tokens
    pieces = [min(shape.max_seqlen, padding - start) for start in range(0, padding, shape.max_seqlen)]
    empty = shape.images - len(lengths) - len(pieces)
    if padding < 0 or longest > shape.max_seqlen or empty < 0:
        raise ConfigError(
            f"got {len(lengths)} images of {tokens} tokens, the longest of {longest}, for {shape}",
            wanted="a pack that fits its shape, padding segments included",
            fix="use PackShape.fitting, or put fewer images into the pack",
        )
    return [*lengths, *pieces, *[0] * empty]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pack:
    """A layout and the data of its images.

    Attributes:
        layout: which token belongs to which image, and where.
        latents: the tokens' values, (channels, patch, patch) flattened, scaled as the network sees them; zero in
            padding.
        labels: the class of each row; 0 for rows without an image.
        indices: the dataset's number of each real image; host only.
        flipped: whether each real image is mirrored; host only.
    """

    layout: PackLayout
    latents: Float[Tensor, "tokens values"]
    labels: Int[Tensor, "images"]
    indices: tuple[int, ...]
    flipped: tuple[bool, ...]
