"""fixed_packs.parquet: packs that a dataset brings with it, for training in just these.

A row a pack; its column `rows` lists the manifest's rows, counted from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import replacing
from .format import read_table

FILE, COLUMN = "fixed_packs.parquet", "rows"


@dataclass(frozen=True, eq=False)
class FixedPacks:
    """Rows, pack after pack.

    Attributes:
        rows: of the manifest, int64.
        offsets: where each pack starts in `rows`, and the end of the last, int64.
    """

    rows: np.ndarray
    offsets: np.ndarray


def has_fixed_packs(folder: Path) -> bool:
    """Whether a dataset brings packs."""
    return (folder / FILE).is_file()


def write_fixed_packs(folder: Path, packs: Sequence[np.ndarray]) -> None:
    """Write packs beside a dataset, whole or not at all.

    Args:
        folder: the dataset's.
        packs: the manifest's rows in each.

    Raises:
        DataError: the disk is full or refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    offsets = np.cumsum([0, *map(len, packs)], dtype=np.int64)
    column = pa.LargeListArray.from_arrays(offsets, np.concatenate(packs).astype(np.int64))
    with replacing(folder / FILE) as staging:
        pq.write_table(pa.table({COLUMN: column}), staging)


def read_fixed_packs(folder: Path, rows: int) -> FixedPacks:
    """The packs of a dataset.

    Args:
        folder: the dataset's.
        rows: how many it has.

    Raises:
        DataError: there are none, or the file is damaged or of another dataset.
    """
    fix = "run anyres import-released again with --packs"
    if not has_fixed_packs(folder):
        raise DataError(f"{folder} has no fixed packs: there is no {FILE}", wanted="imported ones", fix=fix)
    table = read_table(folder / FILE, "list of packs", fix=fix)
    packs = table.column(COLUMN).combine_chunks() if COLUMN in table.column_names else None
    found = np.empty(0, np.int64) if packs is None else packs.flatten().to_numpy()
    if packs is None or not len(found) or found.min() < 0 or found.max() >= rows:
        raise DataError(f"{folder / FILE} does not list packs of {rows} rows", wanted="packs of this dataset", fix=fix)
    lengths = packs.value_lengths().to_numpy()
    return FixedPacks(found.astype(np.int64), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
