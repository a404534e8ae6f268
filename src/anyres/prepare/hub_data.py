"""Data sets of Hugging Face's `datasets`: a repository of the hub, or a local folder, indexed or streamed."""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from ..config import require
from ..errors import BackendError, ConfigError, DataError, first_line
from .found import NO_LABEL, Source, SourceImage, UnusableImage, pick_columns
from .images import UNLABELLED, RejectedImageError, UnreadableImageError, read_file
from .options import PrepareOptions

PREFIX = "hf:"
IMAGE_COLUMN, SPLIT = "image", "train"  # unless the options name others
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RowImage:
    """An image of a data set.

    Attributes:
        source: the row's number, behind what numbers count in.
        label: the class's name.
        rows: the data set's only column, or this row alone, already read.
        index: the row's place there.
        column: the column's name.
    """

    source: str
    label: str
    rows: Any
    index: int
    column: str

    def read(self) -> bytes:
        """The image's bytes, as they were put in."""
        value = self.rows[self.index][self.column]
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return _read_path(value["path"])
        if value is None or isinstance(value, dict):
            raise RejectedImageError("there is no image in this row")
        raise ConfigError(
            f"column {self.column!r} holds {type(value).__name__}",
            wanted="images, or the bytes of image files",
            fix="name another column with --image-column",
        )

    def stamp(self) -> str:
        """A hash of the bytes, or why there are none."""
        try:
            return hashlib.sha256(self.read()).hexdigest()[:16]
        except RejectedImageError as error:
            return str(error)


def find_hub_data(options: PrepareOptions) -> Source:
    """The images of a data set, in its order; they are named by their number, so its commit is pinned.

    Rows without an image or a label are rejected; without a column of labels all are "unlabelled".

    Raises:
        BackendError: the package `datasets` is missing.
        DataError: the data set cannot be loaded or is empty.
        ConfigError: a column is missing, or holds something else than images or labels.
    """
    datasets = _package()
    data, identity = _load(datasets, options)
    # of a stream of text the columns only show in its rows
    features: dict[str, Any] = data.features or dict.fromkeys(next(iter(data), {}))
    image, label = pick_columns(
        options.image_column or IMAGE_COLUMN, options.label_column, list(features), str(options.images)
    )
    data = data.select_columns([image] + ([label] if label else []))  # pictures in others would be decoded
    if isinstance(features[image], datasets.Image):
        data = data.cast_column(image, datasets.Image(decode=False))  # the files' bytes are hashed and decoded here
    names = features[label].names if label and isinstance(features[label], datasets.ClassLabel) else None
    rows = _Rows(
        prefix="/".join(part for part in (options.subset, options.split or SPLIT) if part),
        image=image,
        label=label,
        names=names,
    )
    if isinstance(data, datasets.IterableDataset):
        images = _Stream(str(options.images), data, rows)
        labels = frozenset(names) if names else None if label else frozenset({UNLABELLED})
    else:
        images = rows.indexed(data)
        labels = frozenset(found.label for found in images) - {""}
        if not images:
            raise _empty(str(options.images))
    return Source(name=str(options.images), images=images, labels=labels, identity=identity)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """From rows to images.

    Attributes:
        prefix: of the rows' numbers.
        image: the images' column.
        label: the labels' column, if any.
        names: of the labels, where the column holds their numbers.
    """

    prefix: str
    image: str
    label: str | None
    names: list[str] | None

    def indexed(self, data: Any) -> list[SourceImage]:
        """The images of a data set whose rows can be asked for."""
        labels = data.with_format("arrow")[:][self.label].to_pylist() if self.label else [None] * len(data)
        pictures = data.select_columns([self.image])
        return [self.found(index, value, pictures, index) for index, value in enumerate(labels)]

    def found(self, number: int, value: Any, rows: Any, index: int) -> SourceImage:
        """The image of a row.

        Args:
            number: the row's.
            value: of the column of labels.
            rows: what holds the row.
            index: where.
        """
        source, label = f"{self.prefix}/{number:08d}", self._label(value)
        return RowImage(source, label, rows, index, self.image) if label else UnusableImage(source, NO_LABEL)

    def _label(self, value: Any) -> str:
        if self.label is None:
            return UNLABELLED
        if value is None:
            return ""
        if self.names is not None:
            return self.names[value] if value >= 0 else ""  # -1 marks what is not known
        if isinstance(value, str | int):
            return str(value)
        raise ConfigError(
            f"column {self.label!r} holds {type(value).__name__}",
            wanted="class labels, text or whole numbers",
            fix="name another column with --label-column",
        )


@dataclass(frozen=True)
class _Stream:
    """The images of a stream, from its start each time.

    Attributes:
        name: for messages.
        data: the stream.
        rows: from its rows to images.
    """

    name: str
    data: Any
    rows: _Rows

    def __iter__(self) -> Iterator[SourceImage]:
        number, rows = 0, iter(self.data)
        while (row := self._next(rows, number)) is not None:
            yield self.rows.found(number, row[self.rows.label] if self.rows.label else None, (row,), 0)
            number += 1
        if not number:
            raise _empty(self.name)

    def _next(self, rows: Iterator[dict[str, Any]], number: int) -> dict[str, Any] | None:
        try:
            return next(rows, None)
        except Exception as error:  # of any of the libraries that read formats and the network
            raise DataError(
                f"{self.name} cannot be read after row {number}: {first_line(error)}",
                wanted="a stream that ends in whole",
                fix="run the same command again: what was finished is kept",
            ) from error


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise BackendError(
            "datasets is not installed",
            wanted="the package that reads data sets of Hugging Face",
            fix="pip install 'anyres[hub-data]'",
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _load(datasets: Any, options: PrepareOptions) -> tuple[Any, str]:
    """The data set, and what its rows' numbers count in."""
    whole, split = str(options.images).removeprefix(PREFIX), options.split or SPLIT
    name, _, revision = whole.partition("@")
    folder = Path(whole).expanduser()
    require(name != "", f"{PREFIX} without a name", f"{PREFIX}NAME or {PREFIX}FOLDER", fix="name the data set")
    if folder.is_dir():
        name, revision, identity = str(folder), None, folder.resolve().name
    else:
        revision = revision if COMMIT.fullmatch(revision) else hub.dataset_commit(name, revision or None)
        identity = f"{name}@{revision}"
    identity = " ".join([PREFIX + identity, *filter(None, [options.subset]), split])
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            data = _saved(datasets, folder, options)
        else:
            data = datasets.load_dataset(
                name, name=options.subset, revision=revision, split=split, streaming=options.streaming
            )
    except Exception as error:  # datasets and what it reads with report by many types
        raise DataError(
            f"{options.images} cannot be loaded: {first_line(error)}",
            wanted="a data set of the hub, or a folder of one, and a split of it",
            fix="check the name, --split and --subset",
        ) from error
    return data, identity


def _saved(datasets: Any, folder: Path, options: PrepareOptions) -> Any:
    """A data set that `save_to_disk` wrote: one split, or several by name."""
    data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
        split = options.split or SPLIT
        if split not in data:
            raise ValueError(f"it has no split {split}, but {', '.join(data)}")
        data = data[split]
    elif options.split:
        raise ValueError(f"it has no splits, and {options.split} was asked for")
    return data.to_iterable_dataset() if options.streaming else data


def _read_path(path: str) -> bytes:
    """An image that a data set has by its path, which may be one of fsspec's, such as hf://…."""
    if "://" not in path:
        return read_file(Path(path))
    import fsspec

    opened: Any = fsspec.open(path, "rb")
    try:
        with opened as file:
            return file.read()
    except Exception as error:  # of any of its file systems
        raise UnreadableImageError(f"cannot be read: {first_line(error)}") from None


def _empty(name: str) -> DataError:
    return DataError(f"{name} holds no image", wanted="rows with images", fix="check its name, and --split")
