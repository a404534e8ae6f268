"""Shards: safetensors files that hold the latents of many images end to end.

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
from ..shapes import Float, Tensor

PLAIN, FLIPPED = "latents", "latents_flipped"


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """A shard's latents, memory-mapped, float16.

    Attributes:
        latents: of the images.
        flipped: of the mirrored images.
    """

    latents: Float[Tensor, "cells channels"]
    flipped: Float[Tensor, "cells channels"]


def write_shard(path: Path, latents: Sequence[np.ndarray], flipped: Sequence[np.ndarray]) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: the file.
        latents: (cells, channels) float16 of each image, at least one.
        flipped: of the mirrored images, likewise.

    Raises:
        DataError: the disk is full or refuses.
    """
    shape = [sum(len(latent) for latent in latents), latents[0].shape[1]]
    size = 2 * shape[0] * shape[1]  # bytes of one of the two
    header = json.dumps(
        {
            PLAIN: {"dtype": "F16", "shape": shape, "data_offsets": [0, size]},
            FLIPPED: {"dtype": "F16", "shape": shape, "data_offsets": [size, 2 * size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)  # the data starts aligned
    with replacing(path) as staging, staging.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for array in (*latents, *flipped):
            file.write(np.ascontiguousarray(array, dtype="<f2").data)


def map_shard(path: Path, channels: int) -> Shard:
    """Map a shard into memory. The map keeps no file open: a dataset may have more shards than a process files.

    Raises:
        DataError: it is missing, truncated, or not a shard of this many channels.
    """
    try:
        return _map(path, channels)
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, struct.error) as error:
        problem = f"cannot be read: {error}"
    raise DataError(
        f"shard {path} {problem}",
        wanted="the whole file that anyres prepare wrote",
        fix="restore it from a copy, or prepare the images again into a new folder",
    )


def _map(path: Path, channels: int) -> Shard:
    size = path.stat().st_size
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        if 8 + header_size > size:
            raise ValueError("it is shorter than its header")
        header = json.loads(file.read(header_size))
    # not shared: a private map of a file that is opened for reading only
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[8 + header_size :]
    return Shard(latents=_array(data, header[PLAIN], channels), flipped=_array(data, header[FLIPPED], channels))


def _array(data: Tensor, entry: dict[str, Any], channels: int) -> Float[Tensor, "cells channels"]:
    start, end = entry["data_offsets"]
    if end > len(data):
        raise ValueError("it is shorter than its header says")
    cells, found = entry["shape"]
    if entry["dtype"] != "F16" or found != channels or end - start != 2 * cells * channels:
        raise ValueError(f"it holds {entry['dtype']} of {entry['shape']}, not float16 of (cells, {channels})")
    return data[start:end].view(torch.float16).view(cells, channels)
