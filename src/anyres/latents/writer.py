"""Writing a dataset of latents in parts, so that a kill at any instant loses and doubles nothing.

A part is one shard and one journal entry, `.parts/part-NNNNN.json`, which is written after the shard: what has an entry
is done, what has none is done again. The manifest and then dataset.json follow when no input is left.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import from_dict, to_dict
from ..errors import DataError
from ..files import make_folder, read_json, remove_leftovers, replacing, write_json
from .format import INFO, MANIFEST, MANIFEST_FILE, REJECTED, SHARD, DatasetInfo, Variant

PARTS = ".parts"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A manifest row to be; label by name, place in the shard not yet known.

    Attributes:
        source: path relative to the images' folder.
        label: the class's name.
        original: (height, width) of the file, px, upright.
        image: (height, width) that was encoded, px.
        cells: (height, width) of the latent.
        variant: native or a square crop.
        content_hash: of the file.
        psnr: dB between the image and its decoded latent, where measured.
    """

    source: str
    label: str
    original: tuple[int, int]
    image: tuple[int, int]
    cells: tuple[int, int]
    variant: Variant
    content_hash: str
    psnr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An input that could not be used.

    Attributes:
        source: path relative to the images' folder.
        reason: in words.
        stamp: size and time of the file; a changed file is tried again.
    """

    source: str
    reason: str
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A journal entry.

    Attributes:
        shard: number of the shard.
        rows: its rows in order; their latents lie one after another.
        rejected: inputs of this part that could not be used.
        cells: cells of the shard, over which the sums run.
        channel_sum: sum of each channel over the latents, unscaled and not flipped.
        channel_square_sum: sum of squares likewise.
    """

    shard: int
    rows: tuple[Row, ...]
    rejected: tuple[Rejected, ...]
    cells: int
    channel_sum: tuple[float, ...]
    channel_square_sum: tuple[float, ...]


class DatasetWriter:
    """Writes a dataset's parts.

    Args:
        folder: the dataset's; made if missing.
        settings: what every part must agree in, as JSON values; a folder begun with others is refused.

    Raises:
        DataError: the folder cannot be written to, holds something else, or was begun with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self._parts = folder, folder / PARTS
        if folder.is_dir() and any(folder.iterdir()) and not self._parts.is_dir():
            raise DataError(
                f"{folder} is not empty and is not a dataset",
                wanted="a new folder, or one begun by anyres prepare",
                fix="choose another --out",
            )
        make_folder(self._parts)
        remove_leftovers(folder)
        remove_leftovers(self._parts)
        self._check_settings(settings)
        self.parts = [
            from_dict(Part, read_json(path), where=str(path)) for path in sorted(self._parts.glob("part-*.json"))
        ]

    def finished_sources(self) -> set[str]:
        """Inputs that need nothing more: written, or rejected and not changed since (by their stamp)."""
        return {row.source for part in self.parts for row in part.rows}

    def rejected_stamps(self) -> dict[str, str]:
        """Stamps of the inputs rejected so far."""
        return {item.source: item.stamp for part in self.parts for item in part.rejected}

    def write_part(
        self,
        rows: Sequence[Row],
        latents: Sequence[np.ndarray],
        flipped: Sequence[np.ndarray],
        rejected: Sequence[Rejected],
    ) -> None:
        """Write one shard and its journal entry.

        Args:
            rows: the shard's rows.
            latents: of each row, (cells, channels) float16, row-major.
            flipped: of the mirrored image, likewise.
            rejected: inputs of this part that could not be used.

        Raises:
            DataError: the disk is full or refuses; earlier parts are untouched.
        """
        from safetensors.numpy import save_file

        number = len(self.parts)
        cells = np.concatenate(latents).astype(np.float64) if rows else np.zeros((0, 0))
        if rows:
            with replacing(self.folder / SHARD.format(number)) as staging:
                save_file({"latents": np.concatenate(latents), "latents_flipped": np.concatenate(flipped)}, staging)
        part = Part(
            shard=number,
            rows=tuple(rows),
            rejected=tuple(rejected),
            cells=len(cells),
            channel_sum=tuple(cells.sum(axis=0).tolist()),
            channel_square_sum=tuple((cells**2).sum(axis=0).tolist()),
        )
        write_json(self._parts / f"part-{number:05d}.json", to_dict(part))
        self.parts.append(part)

    def finish(self, **info: Any) -> DatasetInfo:
        """Write the manifest, rejected.csv and, last, dataset.json.

        Args:
            **info: the fields of `DatasetInfo` that do not follow from the parts.

        Raises:
            DataError: no image could be used, or the disk refuses.
        """
        rows = [row for part in self.parts for row in part.rows]
        if not rows:
            reasons = sorted({item.reason for item in self._still_rejected()})
            raise DataError(
                f"none of the images could be used: {'; '.join(reasons[:3])}",
                wanted="at least one readable image",
                fix="check the folder",
            )
        labels = self._labels(rows)
        self._write_manifest(labels)
        rejected = self._still_rejected()
        self._write_rejected(rejected)
        measured = [row.psnr for row in rows if row.psnr is not None]
        count = sum(part.cells for part in self.parts)
        mean = np.sum([part.channel_sum for part in self.parts if part.cells], axis=0) / count
        square = np.sum([part.channel_square_sum for part in self.parts if part.cells], axis=0) / count
        result = DatasetInfo(
            labels=labels,
            images=len({row.source for row in rows}),
            rows=len(rows),
            rejected=len(rejected),
            channel_mean=tuple(mean.tolist()),
            channel_std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
            reconstruction_psnr=float(np.mean(measured)),
            reconstruction_images=len(measured),
            **info,
        )
        write_json(self.folder / INFO, to_dict(result))
        return result

    def _still_rejected(self) -> list[Rejected]:
        written = self.finished_sources()
        latest = {item.source: item for part in self.parts for item in part.rejected if item.source not in written}
        return [latest[source] for source in sorted(latest)]

    def _labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Names in order; those of an earlier run keep their numbers, new ones follow."""
        old = tuple(read_json(self.folder / INFO)["labels"]) if (self.folder / INFO).is_file() else ()
        return (*old, *sorted({row.label for row in rows} - set(old)))

    def _write_manifest(self, labels: tuple[str, ...]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = {name: number for number, name in enumerate(labels)}
        columns: dict[str, list[Any]] = {name: [] for name in MANIFEST}
        for part in self.parts:
            offset = 0
            for row in part.rows:
                values = {
                    "id": f"{row.source}#{row.variant}",
                    "source": row.source,
                    "label": numbers[row.label],
                    "shard": part.shard,
                    "cell_offset": offset,
                    "variant": row.variant,
                    "content_hash": row.content_hash,
                }
                for name, (height, width) in (("original", row.original), ("image", row.image), ("cells", row.cells)):
                    values |= {f"{name}_height": height, f"{name}_width": width}
                for name, column in columns.items():
                    column.append(values[name])
                offset += row.cells[0] * row.cells[1]
        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in MANIFEST.items()])
        with replacing(self.folder / MANIFEST_FILE) as staging:
            pq.write_table(pa.table(columns, schema=schema), staging)

    def _write_rejected(self, rejected: Sequence[Rejected]) -> None:
        if not rejected:
            (self.folder / REJECTED).unlink(missing_ok=True)
            return
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["source", "reason"])
        table.writerows([item.source, item.reason] for item in rejected)
        with replacing(self.folder / REJECTED) as staging:
            staging.write_text(text.getvalue(), encoding="utf-8")

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self._parts / "settings.json"
        if not path.is_file():
            write_json(path, settings)
            return
        old = read_json(path)
        changed = [f"{name}: {old.get(name)} → {value}" for name, value in settings.items() if old.get(name) != value]
        if changed:
            raise DataError(
                f"{self.folder} was begun with other settings: {'; '.join(changed)}",
                wanted="the settings that it was begun with",
                fix="use them, or choose another --out",
            )
