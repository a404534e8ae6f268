"""What a source of images gives: each image's name, label and bytes, wherever they lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..config import suggestion
from ..errors import ConfigError
from .images import RejectedImageError, read_file, stamp

LABEL_COLUMN = "label"  # of a table, unless the options name another
NO_LABEL = "it has no label"


@runtime_checkable
class SourceImage(Protocol):
    """One image of a source."""

    @property
    def source(self) -> str:
        """Its name: the same at every run, and no other image's."""
        ...

    @property
    def label(self) -> str:
        """The class's name."""
        ...

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            RejectedImageError: there is nothing to be used.
            UnreadableImageError: it could not be read this time.
        """
        ...

    def stamp(self) -> str:
        """Text that changes when the image does, so that a rejected one is tried again."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where images come from.

    Attributes:
        name: for messages.
        images: always in the same order; a sequence, unless only going through them tells how many there are.
        labels: the labels there are; None where only going through the images tells.
        ignored: files passed over, being no images by their extension.
        identity: what names count in, where they are numbers: two sources may use the same ones.
    """

    name: str
    images: Iterable[SourceImage]
    labels: frozenset[str] | None
    ignored: int = 0
    identity: str | None = None

    @property
    def count(self) -> int | None:
        """How many images there are, if that is known."""
        return len(self.images) if isinstance(self.images, Sequence) else None


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image in a file of its own.

    Attributes:
        source: its path relative to the folder, or an absolute one.
        label: the class's name.
        folder: what the path is relative to.
    """

    source: str
    label: str
    folder: Path

    def read(self) -> bytes:
        """The file's bytes."""
        return read_file(self.folder / self.source)

    def stamp(self) -> str:
        """The file's size and time of change."""
        return stamp(self.folder / self.source)


@dataclass(frozen=True, slots=True)
class UnusableImage:
    """An entry of a source that is no image, or has no label, which is known before it is read.

    Attributes:
        source: its name.
        reason: why, in words.
        label: empty.
    """

    source: str
    reason: str
    label: str = ""

    def read(self) -> bytes:
        """Raises the reason."""
        raise RejectedImageError(self.reason)

    def stamp(self) -> str:
        """The reason: the entry has changed when it no longer holds."""
        return self.reason


def pick_columns(image: str, label: str | None, there: Sequence[str], where: str) -> tuple[str, str | None]:
    """The columns of a table that hold images and labels.

    Args:
        image: the images' column.
        label: the labels' column; None takes "label" where there is one, and no labels otherwise.
        there: the table's columns.
        where: the table's name, for the message.

    Raises:
        ConfigError: a column is missing.
    """
    for option, name in (("--image-column", image), ("--label-column", label)):
        if name is not None and name not in there:
            raise ConfigError(
                f"{where} has no column {name!r}",
                wanted=f"one of its columns: {', '.join(there)}",
                fix=suggestion(name, there) or f"name one of them with {option}",
            )
    return image, label or (LABEL_COLUMN if LABEL_COLUMN in there else None)
