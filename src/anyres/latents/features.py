"""A teacher's features beside the latents: which they are, and reading them.

`teacher-NNNNN.safetensors` stands beside each shard and holds `features` and `features_flipped`, (features, dim): an
image's are one contiguous slice in row-major order, one for each square of `TeacherInfo.cells` cells a side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..config import require
from ..shapes import Bool, Int, Num, Tensor
from .shards import FEATURES, MappedRows

FEATURE_SHARD = "teacher-{:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """Which features a dataset has.

    Attributes:
        identity: the teacher's name with a hash of its weights.
        dim: channels of a feature.
        cells: cells a side of the square that a feature stands for; the patch size of a model that is aligned with it.
        px: of the resized image that the teacher saw, a side of that square.
        dtype: what they are stored in: each divided by its largest magnitude, in 8 bits times 127.
    """

    identity: str
    dim: int
    cells: int
    px: int
    dtype: Literal["float16", "int8"]

    def __post_init__(self) -> None:
        for name in ("dim", "cells", "px"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")

    def describe(self) -> str:
        """In words, for messages."""
        place = "cell" if self.cells == 1 else f"square of {self.cells}x{self.cells} cells"
        return f"{self.identity}: {self.dim} channels in {self.dtype} for each {place}"


class TeacherFeatures:
    """A dataset's features, memory-mapped; safe to read from several threads.

    Args:
        folder: the dataset's.
        info: which they are.
        cells: each row's (height, width), in cells.
        shards: each row's shard.
        offsets: where each row's cells begin in it.

    Raises:
        DataError: a shard is missing, damaged or of another size.
    """

    def __init__(
        self,
        folder: Path,
        info: TeacherInfo,
        cells: Int[np.ndarray, "rows 2"],
        shards: Int[np.ndarray, "rows"],
        offsets: Int[np.ndarray, "rows"],
    ) -> None:
        self.info = info
        area = info.cells**2  # every image before a row is made of whole squares
        lengths = cells.prod(axis=1, dtype=np.int64) // area
        self._rows = MappedRows(
            folder,
            FEATURE_SHARD,
            shards,
            offsets // area,
            lengths,
            channels=info.dim,
            what=FEATURES,
            dtype=info.dtype,
        )
        self._rows.check(np.add, lengths, "features")

    def views(self, indices: Int[np.ndarray, "some"], flipped: Bool[np.ndarray, "some"]) -> list[Num[Tensor, "_ dim"]]:
        """Rows' features, as they are stored, in the map itself: nothing may write to them."""
        return self._rows.views(indices, flipped)

    def read(self, index: int, *, flipped: bool = False) -> Num[Tensor, "features dim"]:
        """A row's features in row-major order, as they are stored."""
        return self._rows.read(index, flipped=flipped)
