"""JSON files of an evaluation, each with the version of its form."""

from pathlib import Path
from typing import Any, TypeVar

from ..config import from_dict, to_dict
from ..errors import ConfigError, DataError
from ..files import read_json, replacing, write_json

FORMAT_VERSION = 1

T = TypeVar("T")


def write_versioned(path: Path, value: Any) -> None:
    """Write a dataclass, whole or not at all.

    Raises:
        DataError: the disk refuses.
    """
    write_json(path, {"format_version": FORMAT_VERSION, **to_dict(value)})


def read_versioned(path: Path, kind: type[T], again: str) -> T:
    """Read what `write_versioned` wrote.

    Args:
        path: the file.
        kind: the dataclass.
        again: what makes the file again.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    data = read_json(path)
    version = data.pop("format_version", None) if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}", wanted=f"version {FORMAT_VERSION}", fix=f"{again}, by this version"
        )
    try:
        return from_dict(kind, data, where=str(path))
    except ConfigError as error:
        raise DataError(error.got, wanted=error.wanted, fix=again) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        DataError: the disk refuses.
    """
    with replacing(path) as staging:
        staging.write_text(text, encoding="utf-8")
