"""A CSV or Parquet of paths and labels."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from .found import NO_LABEL, FileImage, Source, SourceImage, UnusableImage, pick_columns
from .images import UNLABELLED
from .options import PrepareOptions

PATH_COLUMN = "path"  # unless the options name another


def find_listed(options: PrepareOptions) -> Source:
    """The images that a table lists, in its order; paths are relative to the table's folder.

    A row without a label is rejected, unless no column holds labels.

    Raises:
        DataError: the table cannot be read, is damaged or empty, has a row without a path, or one path twice.
        ConfigError: a column is missing, or holds something else than text or whole numbers.
    """
    path = options.images
    read = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    images: dict[str, SourceImage] = {}
    rows: dict[str, int] = {}
    for number, (name, label) in enumerate(read(options), start=1):
        if not name or "\0" in name:
            raise DataError(f"row {number} of {path} has no path", wanted="a path in every row", fix="remove the row")
        source = Path(name).as_posix()
        if source in images:
            raise DataError(
                f"rows {rows[source]} and {number} of {path} both name {source}",
                wanted="each image once",
                fix="remove one of them",
            )
        rows[source] = number
        images[source] = FileImage(source, label, path.parent) if label else UnusableImage(source, NO_LABEL)
    if not images:
        raise DataError(f"{path} lists no image", wanted="a row an image", fix="check the file")
    return Source(
        name=str(path),
        images=list(images.values()),
        labels=frozenset(image.label for image in images.values()) - {""},
    )


def _read_csv(options: PrepareOptions) -> Iterator[tuple[str | None, str | None]]:
    try:
        with options.images.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            path, label = _columns(options, list(table.fieldnames or ()))
            for row in table:
                yield row[path], row[label] if label else UNLABELLED
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(options.images, error) from error


def _read_parquet(options: PrepareOptions) -> Iterator[tuple[str | None, str | None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        path, label = _columns(options, pq.read_schema(options.images).names)
        table = pq.read_table(options.images, columns=[path] + ([label] if label else []))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(options.images, error) from error
    paths = _texts(options.images, table, path, numbers=False)
    labels = _texts(options.images, table, label, numbers=True) if label else [UNLABELLED] * len(paths)
    yield from zip(paths, labels, strict=True)


def _columns(options: PrepareOptions, there: list[str]) -> tuple[str, str | None]:
    return pick_columns(options.image_column or PATH_COLUMN, options.label_column, there, str(options.images))


def _texts(path: Path, table: Any, name: str, *, numbers: bool) -> list[str | None]:
    import pyarrow as pa

    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or (numbers and pa.types.is_integer(kind)):
        return [None if value is None else str(value) for value in column.to_pylist()]
    raise ConfigError(
        f"column {name!r} of {path} holds {column.type}",
        wanted="text or whole numbers" if numbers else "paths as text",
        fix="name another column with " + ("--label-column" if numbers else "--image-column"),
    )


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read: {error}", wanted="a table with a header, CSV in UTF-8 or Parquet", fix="check the file"
    )
