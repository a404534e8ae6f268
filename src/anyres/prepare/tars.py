"""WebDataset tars: an image and its label lie one after another, as KEY.jpg and KEY.cls.

Only the headers are gone through at first, so that images can be counted, chosen and skipped without reading them.
"""

import glob
import json
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BackendError, ConfigError, DataError
from ..progress import progress
from .found import NO_LABEL, Source, SourceImage, UnusableImage
from .images import UNLABELLED, UnreadableImageError, as_text, check_bytes, image_suffixes, stamp
from .options import PrepareOptions

LABEL_FILE = "cls"  # unless the options name another


@dataclass(frozen=True, slots=True)
class TarImage:
    """An image inside a tar.

    Attributes:
        source: the tar's file name and the image's name in it.
        label: the class's name.
        tar: the tar.
        offset: where the image's bytes start in it.
        size: how many they are.
    """

    source: str
    label: str
    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The image's bytes."""
        check_bytes(self.size)
        try:
            with self.tar.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise UnreadableImageError(f"{self.tar.name} cannot be read: {error.strerror}") from None
        except MemoryError:
            raise UnreadableImageError("too large for the memory") from None
        if len(data) < self.size:
            raise UnreadableImageError(f"{self.tar.name} ends before it")
        return data

    def stamp(self) -> str:
        """The tar's size and time of change."""
        return stamp(self.tar)


def find_tars(options: PrepareOptions) -> Source:
    """The images of tars: of each sample the one file that is an image, or that has the extension `--image-column`.

    A sample is what shares a name up to the first dot. Its label is the text of its .cls, of the file of the extension
    `--label-column`, or with `--label-column json.FIELD` a field of its .json. Where no sample has a .cls, and none was
    asked for, all are "unlabelled"; where some have one, the others are rejected.

    Raises:
        DataError: a tar is missing, damaged or has another's file name, a name is in a tar twice, a sample has several
            images, or there is none at all.
        ConfigError: no sample has the label that was asked for.
        BackendError: a pattern with braces, and no package to expand it.
    """
    paths = _expanded(options)
    same = [name for name, times in Counter(path.name for path in paths).items() if times > 1]
    if same:
        raise DataError(
            f"several tars are named {same[0]}",
            wanted="tars of different file names: their images are named after them",
            fix="rename one of them",
        )
    suffixes = {f".{options.image_column}"} if options.image_column else image_suffixes()
    label = options.label_column or LABEL_FILE
    samples: list[_Sample] = []
    with progress("look into tars", len(paths), "tar") as bar:
        for path in paths:
            samples += _samples(path, suffixes, label)
            bar.advance()
    having = [sample for sample in samples if sample.images]
    if not having:
        raise DataError(
            f"{options.images} holds no image in {len(paths)} tars of {len(samples)} samples",
            wanted=f"files of the extension {options.image_column}" if options.image_column else "image files",
            fix="check the path, or name the images' extension with --image-column",
        )
    labelled = any(sample.label is not None for sample in having)
    if not labelled and options.label_column:
        raise ConfigError(
            f"no sample of {options.images} has a label in {label}",
            wanted="an extension such as cls, or json.FIELD",
            fix="check --label-column, or leave it out",
        )
    images = [sample.found(labelled=labelled) for sample in having]
    return Source(
        name=str(options.images),
        images=images,
        labels=frozenset(image.label for image in images) - {""},
        ignored=sum(sample.others for sample in samples),
    )


@dataclass(slots=True)
class _Sample:
    """What is in a tar under one name.

    Attributes:
        tar: the tar.
        images: of each image its name in the tar, its offset and its size.
        label: its text; None where there is no such file or field.
        others: files that are neither.
        seen: extensions.
    """

    tar: Path
    images: list[tuple[str, int, int]] = field(default_factory=list)
    label: str | None = None
    others: int = 0
    seen: set[str] = field(default_factory=set)

    def found(self, *, labelled: bool) -> SourceImage:
        """Its image."""
        if len(self.images) > 1:
            raise DataError(
                f"a sample of {self.tar} has several images: {', '.join(name for name, _, _ in self.images)}",
                wanted="one image a sample",
                fix="say which by its extension, such as --image-column jpg",
            )
        name, offset, size = self.images[0]
        source = f"{as_text(self.tar.name)}/{name}"
        label = self.label if labelled else UNLABELLED
        return TarImage(source, label, self.tar, offset, size) if label else UnusableImage(source, NO_LABEL)


def _samples(path: Path, suffixes: set[str], label: str) -> list[_Sample]:
    """The samples of a tar, in its order."""
    samples: dict[str, _Sample] = {}
    json_field = label.removeprefix("json.") if label.startswith("json.") else None
    label_file = label if json_field is None else "json"
    try:
        with tarfile.open(path, "r:") as tar:  # no compression: an image is read from its place
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if not (member.isreg() and stem and dot):  # hidden files, too
                    continue
                sample = samples.setdefault(f"{folder}/{stem}", _Sample(path))
                extension = extension.lower()
                if extension in sample.seen:
                    raise DataError(
                        f"{path} holds {as_text(member.name)} twice", wanted="each name once", fix="make the tar again"
                    )
                sample.seen.add(extension)
                if f".{extension}" in suffixes:
                    sample.images.append((as_text(member.name), member.offset_data, member.size))
                elif extension == label_file and (file := tar.extractfile(member)) is not None:
                    sample.label = _label(file.read(), json_field)
                else:
                    sample.others += 1
    except (OSError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"the tar {path} cannot be read: {reason or error}",
            wanted="whole tars, not compressed",
            fix="fetch or unpack it again, or leave it out",
        ) from error
    return list(samples.values())


def _label(data: bytes, json_field: str | None) -> str | None:
    text = data.decode("utf-8", "replace").strip()
    if json_field is None:
        return text
    try:
        value = json.loads(text)[json_field]
    except (ValueError, KeyError, TypeError):
        return None
    return str(value) if isinstance(value, str | int) else None


def _expanded(options: PrepareOptions) -> list[Path]:
    """The tars that a path, or a pattern with braces, * and ?, names."""
    found: list[Path] = []
    for path in (options.images, *options.more_tars):
        names = [str(path)] if path.exists() else _without_braces(str(path))
        for name in names:
            matching = [name] if not glob.has_magic(name) or Path(name).exists() else sorted(glob.glob(name))  # noqa: PTH207 - of absolute paths, too
            if not matching:
                raise DataError(f"no tar matches {name}", wanted="existing tars", fix="check the pattern")
            found += map(Path, matching)
    return found


def _without_braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise BackendError(
            f"got the pattern {pattern}, and braceexpand is not installed",
            wanted="the package that expands braces",
            fix="pip install 'anyres[hub-data]', or let the shell expand it: leave out the quotes",
        ) from None
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(
            f"got the pattern {pattern}: {error}",
            wanted="braces in pairs, such as {000..009}.tar",
            fix="check the pattern",
        ) from error
