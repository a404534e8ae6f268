"""Shards: safetensors files that hold the latents, or a teacher's features, of many images end to end.

They are written from the images' arrays one after another, and read through a memory map, so that neither way holds a
shard in memory. (The safetensors library wants whole arrays.)
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..files import replacing
from ..shapes import Bool, Int, Num, Tensor

LATENTS, FEATURES = "latents", "features"  # what a shard holds; the mirrored images' are named so, and "_flipped"
TYPES = {"float16": ("F16", torch.float16), "int8": ("I8", torch.int8)}  # safetensors' names for them, and torch's


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """A shard's arrays, memory-mapped: a row a cell, or a row a feature.

    Attributes:
        plain: of the images.
        flipped: of the mirrored images.
    """

    plain: Num[Tensor, "rows channels"]
    flipped: Num[Tensor, "rows channels"]


def write_shard(path: Path, plain: Sequence[np.ndarray], flipped: Sequence[np.ndarray], what: str = LATENTS) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: the file.
        plain: (rows, channels) of each image, at least one, all of one type of `TYPES`.
        flipped: of the mirrored images, likewise.
        what: they are.

    Raises:
        DataError: the disk is full or refuses.
    """
    stored = plain[0].dtype
    shape = [sum(len(array) for array in plain), plain[0].shape[1]]
    size = stored.itemsize * shape[0] * shape[1]  # bytes of one of the two
    entry = {"dtype": TYPES[stored.name][0], "shape": shape}
    header = json.dumps(
        {
            what: {**entry, "data_offsets": [0, size]},
            f"{what}_flipped": {**entry, "data_offsets": [size, 2 * size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)  # the data starts aligned
    with replacing(path) as staging, staging.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for array in (*plain, *flipped):
            file.write(np.ascontiguousarray(array, dtype=stored.newbyteorder("<")).data)


def map_shard(path: Path, channels: int, what: str = LATENTS, dtype: str = "float16") -> Shard:
    """Map a shard into memory. The map keeps no file open: a dataset may have more shards than a process files.

    Args:
        path: the file.
        channels: that its rows have.
        what: it holds.
        dtype: of `TYPES`.

    Raises:
        DataError: it is missing, truncated, or not such a shard.
    """
    try:
        return _map(path, channels, what, dtype)
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, struct.error) as error:
        problem = f"cannot be read: {error}"
    raise DataError(
        f"shard {path} {problem}",
        wanted="the whole file that anyres prepare wrote",
        fix="restore it from a copy, or prepare the images again into a new folder",
    )


class MappedRows:
    """The arrays of images in a folder's shards, each shard mapped when it is first read.

    Args:
        folder: with the shards.
        name: of a shard, with its number to be put in.
        shards: of each image, the shard's number.
        offsets: of each image, the first of its rows in the shard.
        lengths: of each image, its rows.
        channels: that a row has.
        what: the shards hold.
        dtype: of `TYPES`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        shards: Int[np.ndarray, "images"],
        offsets: Int[np.ndarray, "images"],
        lengths: Int[np.ndarray, "images"],
        *,
        channels: int,
        what: str = LATENTS,
        dtype: str = "float16",
    ) -> None:
        self._folder, self._name = folder, name
        self._shards, self._offsets, self._lengths = shards, offsets, lengths
        self._channels, self._what, self._dtype = channels, what, dtype
        self._maps: dict[int, Shard] = {}

    def views(
        self, indices: Int[np.ndarray, "some"], flipped: Bool[np.ndarray, "some"]
    ) -> list[Num[Tensor, "_ channels"]]:
        """Images' rows, as they are stored, in the map itself: nothing may write to them.

        Args:
            indices: the images' numbers.
            flipped: which of them are mirrored.
        """
        found, starts = self._shards[indices].tolist(), self._offsets[indices]
        places = zip(found, starts.tolist(), (starts + self._lengths[indices]).tolist(), flipped.tolist(), strict=True)
        shards = {number: self._shard(number) for number in set(found)}
        # nothing in here lets go of the interpreter, for which each time another thread would have to be waited for
        return [
            (shards[number].flipped if mirrored else shards[number].plain)[start:end]
            for number, start, end, mirrored in places
        ]

    def read(self, index: int, *, flipped: bool = False) -> Num[Tensor, "rows channels"]:
        """A copy of an image's rows, as they are stored."""
        return self.views(np.array([index]), np.array([flipped]))[0].clone()

    def check(self, gathered: np.ufunc, rows: Int[np.ndarray, "images"], unit: str) -> None:
        """Map every shard, and compare its length with what its images' values of `rows` give, gathered.

        Raises:
            DataError: a shard is missing, damaged or of another length.
        """
        numbers, which = np.unique(self._shards, return_inverse=True)
        wanted = np.zeros(len(numbers), dtype=np.int64)
        gathered.at(wanted, which, rows)
        for number, wants in zip(numbers.tolist(), wanted.tolist(), strict=True):
            has = len(self._shard(number).plain)
            if has != wants:
                raise DataError(
                    f"{self._folder / self._name.format(number)} has {has} {unit}, and the manifest wants {wants}",
                    wanted="files of one preparation",
                    fix="run anyres prepare again into a new folder",
                )

    def _shard(self, number: int) -> Shard:
        # two threads may both map a shard; either map serves
        if number not in self._maps:
            path = self._folder / self._name.format(number)
            self._maps[number] = map_shard(path, self._channels, self._what, self._dtype)
        return self._maps[number]


def _map(path: Path, channels: int, what: str, dtype: str) -> Shard:
    size = path.stat().st_size
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        if 8 + header_size > size:
            raise ValueError("it is shorter than its header")
        header = json.loads(file.read(header_size))
    # not shared: a private map of a file that is opened for reading only
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[8 + header_size :]
    return Shard(
        plain=_array(data, header[what], channels, dtype),
        flipped=_array(data, header[f"{what}_flipped"], channels, dtype),
    )


def _array(data: Tensor, entry: dict[str, Any], channels: int, dtype: str) -> Num[Tensor, "rows channels"]:
    start, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError("it is shorter than its header says")
    rows, found = entry["shape"]
    named, kind = TYPES[dtype]
    if entry["dtype"] != named or found != channels or end - start != kind.itemsize * rows * channels:
        raise ValueError(f"it holds {entry['dtype']} of {entry['shape']}, not {dtype} of (rows, {channels})")
    return data[start:end].view(kind).view(rows, channels)
