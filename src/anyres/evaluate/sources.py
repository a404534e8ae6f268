"""Where images come from: a folder, or an .npz file in the form of ADM's evaluator."""

import hashlib
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..errors import DataError
from ..prepare.images import UNLABELLED, DecodedImage, ImageFile, decode, find_images, stamp
from ..sample.writer import SHEET

IMAGES, LABELS = "arr_0", "arr_1"  # names in an .npz of ADM's form


@runtime_checkable
class Source(Protocol):
    """Images in a fixed order, read one by one, from several threads at once."""

    @property
    def where(self) -> Path:
        """The folder or file."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the images."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Of the images."""
        ...

    def read(self, index: int) -> DecodedImage:
        """An image; raises `RejectedImageError` for one that cannot be read."""
        ...

    @property
    def stamps(self) -> Sequence[str]:
        """What tells changed images, without reading them."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder of image files, one folder a label, or all in one.

    Args:
        where: the folder.
        files: the images in it.
    """

    where: Path
    files: tuple[ImageFile, ...]

    @classmethod
    def open(cls, folder: Path) -> "FolderSource":
        """Find the images, without the contact sheets that `anyres sample` writes beside its images.

        Raises:
            DataError: there is no such folder, or it holds no image.
        """
        sheet = Path(SHEET).stem
        found = find_images(folder).files
        return cls(folder, tuple(file for file in found if not Path(file.source).stem.startswith(sheet)))

    @property
    def names(self) -> Sequence[str]:
        """Paths in the folder."""
        return [file.source for file in self.files]

    @property
    def labels(self) -> Sequence[str]:
        """Names of the folders."""
        return [file.label for file in self.files]

    def read(self, index: int) -> DecodedImage:
        """Decode a file."""
        return decode(self.where / self.files[index].source)

    @property
    def stamps(self) -> Sequence[str]:
        """A stamp and a name each file."""
        return [f"{stamp(self.where / file.source)} {file.source}" for file in self.files]


class NpzSource:
    """The images of an .npz file: `arr_0` (images, height, width, 3) uint8, and perhaps class numbers, `arr_1`.

    They stay on disk; a compressed file is unpacked into a temporary one.

    Args:
        where: the file.

    Raises:
        DataError: it is missing, damaged, or holds no such array.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self._images = npz_array(where, IMAGES)
        if self._images.ndim != 4 or self._images.shape[-1] != 3 or self._images.dtype != np.uint8:
            raise DataError(
                f"{where}: {IMAGES} is {self._images.dtype} of shape {self._images.shape}",
                wanted="uint8 of shape (images, height, width, 3)",
                fix="save the images as ADM's sampler does: np.savez(path, images, labels)",
            )
        labels = npz_array(where, LABELS) if LABELS in npz_names(where) else None
        if labels is not None and labels.shape != self._images.shape[:1]:
            raise DataError(
                f"{where}: {LABELS} has shape {labels.shape}, for {len(self._images)} images",
                wanted="a class number each image",
                fix=f"save it again, or leave {LABELS} out",
            )
        self.labels = [UNLABELLED] * len(self._images) if labels is None else [str(label) for label in labels.tolist()]

    @property
    def names(self) -> Sequence[str]:
        """Their numbers."""
        return [str(i) for i in range(len(self._images))]

    def read(self, index: int) -> DecodedImage:
        """An image of the array."""
        pixels = np.ascontiguousarray(self._images[index])
        return DecodedImage(Image.fromarray(pixels), hashlib.sha256(pixels.tobytes()).hexdigest())

    @property
    def stamps(self) -> Sequence[str]:
        """The whole file's."""
        return [stamp(self.where)]


def open_source(path: Path) -> Source:
    """A folder's or an .npz file's images.

    Raises:
        DataError: there are none.
    """
    return NpzSource(path) if path.suffix == ".npz" else FolderSource.open(path)


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an .npz file.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # damage shows by nearly every kind of error, here and below
        raise DataError(f"{path} cannot be read: {error}", wanted="an .npz file", fix="check the path") from error


def npz_array(path: Path, name: str) -> np.ndarray:
    """An array of an .npz file, mapped where it lies; unpacked first where it is compressed.

    Raises:
        DataError: the file is damaged, or has no such array.
    """
    if name not in npz_names(path):
        raise DataError(
            f"{path} has no array {name!r}, but {', '.join(npz_names(path)) or 'none'}",
            wanted="an .npz file in the form of ADM's evaluator",
            fix="save the images with np.savez(path, images)",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    # the mapping outlives the name
                    return _map(Path(archive.extract(member, folder)), 0)
            return _map(path, _data_offset(path, member))
    except Exception as error:
        raise DataError(
            f"{path}: the array {name!r} cannot be read: {error}",
            wanted="an array of numbers as np.savez writes it",
            fix="save it again with np.savez, which needs no space to unpack",
        ) from error


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, which ends with its name and an extra field."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + name + extra


def _map(path: Path, offset: int) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        read: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"its .npy version is {version}")
        shape, fortran, dtype = read[version](file)
        if dtype.hasobject or fortran:
            raise ValueError(f"it is {dtype}{' in Fortran order' if fortran else ''}")
        if not np.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
