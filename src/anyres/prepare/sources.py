"""From what `anyres prepare` is told to a source of images: the one place that tells the kinds apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from .found import FileImage, Source
from .hub_data import PREFIX, find_hub_data
from .images import find_images
from .listing import find_listed
from .options import PrepareOptions
from .tars import find_tars


def find_source(options: PrepareOptions) -> Source:
    """The images that the options name.

    Raises:
        DataError: there is no such source, it cannot be read, is damaged or empty, or names an image twice.
        ConfigError: an option that this kind of source does not have, or a column that is not there.
        BackendError: a package is missing that this kind of source needs.
    """
    kind = _kind(options.images)
    wrong = sorted(name for name in _OWN if getattr(options, name) and name not in kind.options)
    if wrong:
        got = "several paths" if wrong[0] == "more_tars" else f"--{wrong[0].replace('_', '-')}"
        raise ConfigError(
            f"got {got} and {options.images}, which is {kind.name}",
            wanted=f"{' or '.join(other.name for other in _KINDS if wrong[0] in other.options)} for that",
            fix="leave it out",
        )
    return kind.find(options)


@dataclass(frozen=True)
class _Kind:
    """A kind of source.

    Attributes:
        name: in words.
        find: from the options to the source.
        options: those that other kinds do not all have.
    """

    name: str
    find: Callable[[PrepareOptions], Source]
    options: tuple[str, ...] = ()


def _find_folder(options: PrepareOptions) -> Source:
    found = find_images(options.images)
    return Source(
        name=str(options.images),
        images=[FileImage(file.source, file.label, options.images) for file in found.files],
        labels=frozenset(file.label for file in found.files),
        ignored=found.ignored,
    )


_FOLDER = _Kind("a folder", _find_folder)
_TABLE = _Kind("a .csv or .parquet of paths", find_listed, ("image_column", "label_column"))
_TARS = _Kind("WebDataset tars", find_tars, ("image_column", "label_column", "more_tars"))
_HUB = _Kind(
    f"a data set of Hugging Face ({PREFIX}NAME)",
    find_hub_data,
    ("image_column", "label_column", "split", "subset", "streaming"),
)
_KINDS = (_FOLDER, _TABLE, _TARS, _HUB)
_OWN = sorted({name for kind in _KINDS for name in kind.options})
_BY_SUFFIX = {".csv": _TABLE, ".parquet": _TABLE, ".tar": _TARS}


def _kind(path: Path) -> _Kind:
    if str(path).startswith(PREFIX):
        return _HUB
    kind = _BY_SUFFIX.get(path.suffix.lower(), _FOLDER)
    if path.is_file() and kind is _FOLDER:
        raise DataError(
            f"{path} is a file of a kind that is not read",
            wanted=f"{', '.join(kind.name for kind in _KINDS)}",
            fix="unpack it into a folder",
        )
    return _FOLDER if path.is_dir() else kind  # a folder may have any name; what is not there is missed as a folder
