"""A teacher's features beside the latents: which they are, and reading them.

`teacher-NNNNN.safetensors` stands beside each shard and holds `features` and `features_flipped`, (features, dim): an
image's are one contiguous slice in row-major order, one for each square of `TeacherInfo.cells` cells a side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..config import require
from ..errors import DataError
from ..shapes import Int, Num, Tensor
from .shards import FEATURES, Shard, map_shard

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
        self.info, self._folder, self._shards = info, folder, shards
        area = info.cells**2  # every image before a row is made of whole squares
        self._lengths, self._offsets = cells.prod(axis=1, dtype=np.int64) // area, offsets // area
        self._maps: dict[int, Shard] = {}
        self._check()

    def read(self, index: int, *, flipped: bool = False) -> Num[Tensor, "features dim"]:
        """A row's features in row-major order, as they are stored."""
        shard = self._shard(int(self._shards[index]))
        start, length = int(self._offsets[index]), int(self._lengths[index])
        # a copy: the map is the file's
        return (shard.flipped if flipped else shard.plain)[start : start + length].clone()

    def _shard(self, number: int) -> Shard:
        # two threads may both map a shard; either map serves
        if number not in self._maps:
            path = self._folder / FEATURE_SHARD.format(number)
            self._maps[number] = map_shard(path, self.info.dim, FEATURES, self.info.dtype)
        return self._maps[number]

    def _check(self) -> None:
        numbers, which = np.unique(self._shards, return_inverse=True)
        wanted = np.zeros(len(numbers), dtype=np.int64)
        np.add.at(wanted, which, self._lengths)
        for number, wants in zip(numbers.tolist(), wanted.tolist(), strict=True):
            has = len(self._shard(number).plain)
            if has != wants:
                raise DataError(
                    f"{self._folder / FEATURE_SHARD.format(number)} has {has} features, and the manifest wants {wants}",
                    wanted="files of one preparation",
                    fix="run anyres prepare again into a new folder",
                )
