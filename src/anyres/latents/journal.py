"""Journal entries of a dataset being written: one a part, a Parquet file of its rows and of their sums."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import from_dict, to_dict
from ..files import replacing
from .features import TeacherInfo
from .format import MANIFEST, read_table

# a journal entry's columns: those of the manifest that do not follow from other parts; the label is a name here
COLUMNS = {name: kind for name, kind in MANIFEST.items() if name not in ("id", "shard", "cell_offset")}
COLUMNS |= {"label": "string", "psnr": "float64"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A manifest row to be; label by name, place in the shard not yet known.

    Attributes:
        source: path relative to the images' folder.
        label: the class's name.
        original: (height, width) of the file, px, upright.
        image: (height, width) that was encoded, px.
        cells: (height, width) of the latent.
        variant: its name; reshaped ones are numbered.
        content_hash: of the file.
        psnr: dB between the image and its decoded latent, where measured.
    """

    source: str
    label: str
    original: tuple[int, int]
    image: tuple[int, int]
    cells: tuple[int, int]
    variant: str
    content_hash: str
    psnr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An input that could not be used.

    Attributes:
        source: path relative to the images' folder.
        reason: in words.
        stamp: size and time of the file, by which it is seen to have changed; "" to try it again in any case.
    """

    source: str
    reason: str
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a journal entry says beside its rows.

    Attributes:
        shard: number of the shard; there is no file where there are no rows.
        rejected: inputs of this part that could not be used.
        cells: cells of the shard, over which the sums run.
        channel_sum: sum of each channel over the latents, unscaled and not flipped.
        channel_square_sum: sum of squares likewise.
        teacher: whose features stand beside the shard, if any's.
        begun: the first number that the processes of its time gave out, each to its parts in turn.
        before: entries that there were at that time.
        processes: how many they were.
    """

    shard: int
    rejected: tuple[Rejected, ...]
    cells: int
    channel_sum: tuple[float, ...]
    channel_square_sum: tuple[float, ...]
    teacher: TeacherInfo | None = None
    begun: int = 0
    before: int = 0
    processes: int = 1

    def wanted(self) -> range:
        """Numbers of the parts that its process wrote before it, in one go."""
        return range(self.begun + (self.shard - self.begun) % self.processes, self.shard, self.processes)


def write_part(path: Path, part: Part, rows: Sequence[Row]) -> Any:
    """Write a journal entry; returns its rows as a pyarrow Table.

    Raises:
        DataError: the disk is full or refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in rows:
        for name in ("source", "label", "variant", "content_hash", "psnr"):
            columns[name].append(getattr(row, name))
        for name in ("original", "image", "cells"):
            height, width = getattr(row, name)
            columns[f"{name}_height"].append(height)
            columns[f"{name}_width"].append(width)
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    table = pa.table(columns, schema=schema)
    with replacing(path) as staging:
        pq.write_table(table.replace_schema_metadata({"part": json.dumps(to_dict(part))}), staging)
    return table


def read_part(path: Path) -> tuple[Part, Any]:
    """Read a journal entry, and its rows as a pyarrow Table.

    Raises:
        DataError: the file is damaged.
    """
    table = read_table(path, "journal entry", fix="prepare the images again into a new folder")
    part = from_dict(Part, json.loads(table.schema.metadata[b"part"]), where=str(path))
    return part, table.replace_schema_metadata(None)
