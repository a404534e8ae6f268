"""Writing a dataset of latents in parts, so that a kill at any instant loses and doubles nothing.

A part is one shard and one journal entry, `.parts/part-NNNNN.parquet`, which is written after the shard: what has an
entry is done, what has none is done again. The manifest and then dataset.json follow when no input is left. Several
processes write parts of their own, each to every so manieth number; the leading one does all else.
"""

import csv
import fcntl
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..config import to_dict
from ..errors import DataError
from ..files import make_folder, read_json, remove_leftovers, replacing, write_json
from ..ranks import Ranks
from .autoencoder import AUTOENCODER
from .features import FEATURE_SHARD, TeacherInfo
from .format import INFO, MANIFEST, MANIFEST_FILE, REJECTED, SHARD, DatasetInfo, read_info
from .journal import COLUMNS, Part, Rejected, Row, read_part, write_part
from .shards import FEATURES, write_shard

PARTS = ".parts"
SETTINGS = "settings.json"
LOCK = "lock"


class DatasetWriter:
    """Writes a dataset's parts. Use it in a `with` statement: the leading process holds a lock on the folder.

    Args:
        folder: the dataset's; made if missing.
        ranks: the processes that write together; by default this one alone.

    Raises:
        DataError: the folder cannot be written to, holds something else, something damaged or of a newer format, or
            another process is writing to it.
    """

    def __init__(self, folder: Path, ranks: Ranks | None = None) -> None:
        self.folder, self._parts, self._ranks = folder, folder / PARTS, ranks or Ranks()
        self.parts: list[Part] = []
        self._teacher: TeacherInfo | None = None
        self._tables: list[Any] = []  # the rows of each part, columnar: there may be millions
        self._labels: tuple[str, ...] = ()  # of an earlier run: they keep their numbers
        self._lock: Any = None
        self._is_new = False
        with self._ranks.leading_first():
            if self._ranks.rank == 0:
                self._begin()
            else:
                self.read()
        first = 1 + max((part.shard for part in self.parts), default=-1)
        self._number = first + self._ranks.rank
        # one process after another, without a gap, is as one that was never interrupted
        alone = self._ranks.world == 1 and first == len(self.parts)
        self._begun, self._before = (0, 0) if alone else (first, len(self.parts))

    def _begin(self) -> None:
        """Take the folder, read what earlier runs did, and remove what they began and did not finish."""
        folder = self.folder
        self._is_new = not folder.exists()
        if folder.is_dir() and not self._parts.is_dir():
            others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            if others:
                raise DataError(
                    f"{folder} is not empty and was not begun by anyres prepare: it holds {', '.join(others[:3])}",
                    wanted="a new folder, or one begun by anyres prepare",
                    fix="choose another --out",
                )
        make_folder(self._parts)
        self._lock = (self._parts / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DataError(
                f"another process is preparing {folder}", wanted="one at a time", fix="wait until it is done"
            ) from None
        try:
            self._resume()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            if error is not None:
                self._withdraw()
            self._lock.close()

    def _withdraw(self) -> None:
        """Leave nothing of a preparation that was refused before it had made anything."""
        made = {path.name for path in self._parts.iterdir()} - {LOCK, SETTINGS}
        made |= {path.name for path in self.folder.iterdir()} - {PARTS, AUTOENCODER}
        if not made:
            for path in (self._parts, self.folder / AUTOENCODER):
                shutil.rmtree(path, ignore_errors=True)
            if self._is_new:
                self.folder.rmdir()

    def read(self) -> None:
        """Read what has been written, by whichever process."""
        entries = [read_part(path) for path in sorted(self._parts.glob("part-*.parquet"))]
        self.parts, self._tables = [part for part, _ in entries], [table for _, table in entries]

    def agree(self, settings: dict[str, Any]) -> None:
        """Check that the folder was begun with these settings, or remember them; the leading process does it for all.

        Args:
            settings: what every part must agree in, as JSON values.

        Raises:
            DataError: it was begun with others, which are shown.
        """
        if self._ranks.rank > 0:
            return
        path = self._parts / SETTINGS
        old = read_json(path) if path.is_file() else {}
        changed = [
            f"{name}: {old[name]} → {value}" for name, value in settings.items() if old.get(name, value) != value
        ]
        if changed:
            raise DataError(
                f"{self.folder} was begun with other settings: {'; '.join(changed)}",
                wanted="the settings that it was begun with",
                fix="use them, or choose another --out",
            )
        write_json(path, old | settings)

    def agree_on_teacher(self, teacher: TeacherInfo | None) -> None:
        """Check that all parts so far have this teacher's features, or none's; what is written from now on has them.

        Raises:
            DataError: the folder was begun with another teacher, or with none.
        """
        self._teacher = teacher
        for part in self.parts:
            if part.cells and part.teacher != teacher:
                raise DataError(
                    f"{self.folder} was begun with {_described(part.teacher)}, and now it is {_described(teacher)}",
                    wanted="the same --teacher, --teacher-weights and --teacher-dtype as before",
                    fix="use them, or choose another --out",
                )

    def finished_sources(self) -> set[str]:
        """Inputs that were written."""
        return {source for table in self._tables for source in table.column("source").to_pylist()}

    def finished_ids(self) -> set[str]:
        """The rows that were written, by the manifest's `id`."""
        return {name for table in self._tables for name in _ids(table).to_pylist()}

    def rejected_stamps(self) -> dict[str, str]:
        """Stamps of the inputs rejected so far."""
        return {item.source: item.stamp for part in self.parts for item in part.rejected}

    def variant_rows(self) -> dict[str, int]:
        """Rows of each variant, the reshaped ones together."""
        counts: dict[str, int] = {}
        for table in self._tables:
            for entry in table.column("variant").value_counts().to_pylist():
                name = "reshaped" if entry["values"].startswith("reshaped") else entry["values"]
                counts[name] = counts.get(name, 0) + entry["counts"]
        return counts

    def write_part(
        self,
        rows: Sequence[Row],
        latents: Sequence[np.ndarray],
        flipped: Sequence[np.ndarray],
        rejected: Sequence[Rejected],
        features: Sequence[tuple[np.ndarray, ...]] = (),
    ) -> None:
        """Write one shard, its teacher's features and its journal entry.

        Args:
            rows: the shard's rows.
            latents: of each row, (cells, channels) float16, row-major.
            flipped: of the mirrored image, likewise.
            rejected: inputs of this part that could not be used.
            features: of each row, where there is a teacher: (features, dim), row-major, and of the mirrored image.

        Raises:
            DataError: the disk is full or refuses; earlier parts are untouched.
        """
        number, self._number = self._number, self._number + self._ranks.world
        if rows:
            write_shard(self.folder / SHARD.format(number), latents, flipped)
            if self._teacher is not None:
                plain, mirrored = zip(*features, strict=True)
                write_shard(self.folder / FEATURE_SHARD.format(number), plain, mirrored, FEATURES)
        # an image at a time: the whole part in float64 would be large
        sums = [latent.sum(axis=0, dtype=np.float64) for latent in latents]
        squares = [np.square(latent, dtype=np.float64).sum(axis=0) for latent in latents]
        part = Part(
            shard=number,
            rejected=tuple(rejected),
            cells=sum(len(latent) for latent in latents),
            channel_sum=tuple(np.sum(sums, axis=0).tolist()) if rows else (),
            channel_square_sum=tuple(np.sum(squares, axis=0).tolist()) if rows else (),
            teacher=self._teacher,
            begun=self._begun,
            before=self._before,
            processes=self._ranks.world,
        )
        self._tables.append(write_part(self._parts / f"part-{number:05d}.parquet", part, rows))
        self.parts.append(part)

    def finish(self, *, labels: Sequence[str] = (), **info: Any) -> DatasetInfo:
        """Write the manifest, rejected.csv and, last, dataset.json.

        Args:
            labels: names that come first, in this order, also those of which there is no image; further ones are
                sorted.
            **info: the fields of `DatasetInfo` that do not follow from the parts.

        Raises:
            DataError: no image could be used, or the disk refuses.
        """
        import pyarrow as pa
        import pyarrow.compute

        pc: Any = pyarrow.compute  # its functions are made at import, unseen by type checkers
        rejected = self._still_rejected()
        self._write_rejected(rejected)
        filled = [part for part in self.parts if part.cells]
        if not filled:
            reasons = sorted({item.reason for item in rejected})
            raise DataError(
                f"none of the {len(rejected)} images could be used: {'; '.join(reasons[:3])}",
                wanted="at least one readable image",
                fix=f"check the images; {self.folder / REJECTED} lists each one's reason",
            )
        table = pa.concat_tables(self._tables)
        first = self._labels or tuple(labels)
        new = set(pc.unique(table.column("label")).to_pylist()) - set(first)
        names = (*first, *sorted(new, key=_label_order))
        count = sum(part.cells for part in filled)
        mean = np.sum([part.channel_sum for part in filled], axis=0) / count
        square = np.sum([part.channel_square_sum for part in filled], axis=0) / count
        result = DatasetInfo(
            labels=names,
            images=pc.count_distinct(table.column("source")).as_py(),
            rows=table.num_rows,
            rejected=len(rejected),
            channel_mean=tuple(mean.tolist()),
            # a constant channel may come out below zero, to rounding
            channel_std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
            reconstruction_psnr=pc.mean(table.column("psnr")).as_py(),
            reconstruction_images=pc.count(table.column("psnr")).as_py(),
            teacher=self._teacher,
            **info,
        )
        self._write_manifest(table, names)
        write_json(self.folder / INFO, to_dict(result))
        return result

    def _resume(self) -> None:
        """Read what earlier runs did, and remove what they began."""
        remove_leftovers(self.folder)
        remove_leftovers(self._parts)
        self.read()
        done = {part.shard for part in self.parts}
        # of those that one process wrote in one go, the last tells of all
        last = {(part.begun, part.shard % part.processes): part for part in self.parts}.values()
        whole = all(
            done.issuperset(part.wanted()) and sum(number < part.begun for number in done) >= part.before
            for part in last
        )
        if (self.folder / INFO).is_file():
            info = read_info(self.folder)
            self._labels = info.labels
            whole = whole and sum(table.num_rows for table in self._tables) >= info.rows
        if not whole:
            raise DataError(
                f"{self._parts} lacks entries of parts that were done",
                wanted="all that anyres prepare wrote there",
                fix="restore it from a copy, or prepare the images again into a new folder",
            )
        # a process was killed before it made the entry
        for pattern in (SHARD, FEATURE_SHARD):
            for path in self.folder.glob(pattern.replace("{:05d}", "*")):
                if int(path.stem.rpartition("-")[2]) not in done:
                    path.unlink()
        if not self.parts:
            # nothing was made with them: what was killed or refused that early may begin with others
            (self._parts / SETTINGS).unlink(missing_ok=True)
            shutil.rmtree(self.folder / AUTOENCODER, ignore_errors=True)

    def _still_rejected(self) -> list[Rejected]:
        written = self.finished_sources() | self.finished_ids()
        latest = {item.source: item for part in self.parts for item in part.rejected if item.source not in written}
        return [latest[source] for source in sorted(latest)]

    def _write_manifest(self, table: Any, labels: tuple[str, ...]) -> None:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet as pq

        pc: Any = pyarrow.compute
        area = table.column("cells_height").to_numpy().astype(np.int64) * table.column("cells_width").to_numpy()
        ends = np.cumsum(area)
        rows = np.array([part_table.num_rows for part_table in self._tables])
        # a part's first row starts its shard
        before = np.concatenate([[0], ends])[np.cumsum(rows) - rows]
        columns = {name: table.column(name) for name in COLUMNS if name != "psnr"} | {
            "id": _ids(table),
            "label": pc.index_in(table.column("label"), value_set=pa.array(labels)),
            "shard": np.repeat([part.shard for part in self.parts], rows),
            "cell_offset": ends - area - np.repeat(before, rows),
        }
        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in MANIFEST.items()])
        with replacing(self.folder / MANIFEST_FILE) as staging:
            pq.write_table(pa.table([columns[name] for name in MANIFEST], names=list(MANIFEST)).cast(schema), staging)

    def _write_rejected(self, rejected: Sequence[Rejected]) -> None:
        if not rejected:
            (self.folder / REJECTED).unlink(missing_ok=True)
            return
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["source", "reason"])
        table.writerows([item.source, item.reason] for item in rejected)
        with replacing(self.folder / REJECTED) as staging:
            staging.write_text(text.getvalue(), encoding="utf-8")


def settings_of(folder: Path) -> dict[str, Any]:
    """What a dataset's parts agreed in; empty where it has gone."""
    path = folder / PARTS / SETTINGS
    return read_json(path) if path.is_file() else {}


def _ids(table: Any) -> Any:
    """Each row's source#variant."""
    import pyarrow.compute

    pc: Any = pyarrow.compute
    return pc.binary_join_element_wise(table.column("source"), table.column("variant"), "#")


def _label_order(name: str) -> tuple[bool, int, str]:
    """Numbers first, by their value, so that they number their classes as far as none is missing."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _described(teacher: TeacherInfo | None) -> str:
    return "no teacher" if teacher is None else f"the teacher {teacher.describe()}"
