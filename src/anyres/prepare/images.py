"""Finding images, decoding them to upright RGB, and the sizes that they are encoded at."""

import hashlib
import io
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..grid import Size

UNLABELLED = "unlabelled"

# not pictures made of pixels: descriptions that run an external program, and containers that Pillow only identifies
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
BYTES_PER_PX = 16  # of a file, at most: four channels of float32, uncompressed


class RejectedImageError(Exception):
    """An image file that cannot be used, with the reason; listed and skipped, never fatal."""


class UnreadableImageError(RejectedImageError):
    """A file that could not be read this time; another time it may be."""


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image found.

    Attributes:
        source: path relative to the folder that was searched, with forward slashes.
        label: the class's name.
    """

    source: str
    label: str


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """What a folder holds.

    Attributes:
        files: the images, in order of their path.
        ignored: number of files that are not images by their extension.
    """

    files: tuple[ImageFile, ...]
    ignored: int


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image's pixels.

    Attributes:
        pixels: RGB, upright.
        content_hash: SHA-256 of the file's bytes.
    """

    pixels: Image.Image
    content_hash: str

    @property
    def size(self) -> Size:
        """Its (height, width) in px."""
        return Size(self.pixels.height, self.pixels.width)


def find_images(folder: Path) -> FoundImages:
    """The image files of a folder, by their extension.

    A folder directly inside is a class, with all that lies deeper in it; where there are no such folders with images,
    the images of the folder itself are one class, "unlabelled". Links are followed; hidden files and folders are
    passed over.

    Raises:
        DataError: there is no such folder, it cannot be read, it holds no image, or images beside class folders.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", wanted="a folder of images", fix="check the path")
    known = image_suffixes()
    every = _files(folder)
    paths = sorted((path for path in every if path.suffix.lower() in known), key=lambda path: path.parts)
    if not paths:
        raise DataError(
            f"{folder} holds no image" + (f", but {len(every)} other files" if every else ""),
            wanted="image files, in one folder a class or all in one",
            fix="check the path",
        )
    loose = [path for path in paths if len(path.parts) == 1]
    if loose and len(loose) < len(paths):
        raise DataError(
            f"{folder} holds {len(loose)} images beside class folders, such as {as_text(str(loose[0]))}",
            wanted="all images in class folders, or all in one folder",
            fix="move them into a class folder",
        )
    files = tuple(
        ImageFile(as_text(path.as_posix()), UNLABELLED if loose else as_text(path.parts[0])) for path in paths
    )
    return FoundImages(files=files, ignored=len(every) - len(paths))


def image_suffixes() -> set[str]:
    """The extensions of images, such as ".png", in lower case."""
    return {name for name, kind in Image.registered_extensions().items() if _is_picture(kind)}


def stamp(path: Path) -> str:
    """A file's size and time of change, by which a changed file is noticed."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_ctime_ns}"


def decode(path: Path) -> DecodedImage:
    """Read and decode an image file.

    Raises:
        RejectedImageError: its content cannot be used; see `decode_bytes`.
        UnreadableImageError: the disk or the permissions are in the way, or memory is short.
    """
    return decode_bytes(read_file(path))


def decode_bytes(data: bytes) -> DecodedImage:
    """Decode an image: first frame, upright by EXIF, alpha over white, 8-bit RGB; colour profiles are not applied.

    Raises:
        RejectedImageError: it is empty, truncated, corrupt, of an unknown kind, or larger than Pillow's bound on
            decompression bombs (about 89 million px).
        UnreadableImageError: memory is short.
    """
    check_bytes(len(data))
    if not data:
        raise RejectedImageError("the file is empty")
    Image.init()  # otherwise it loads its plugins when first needed, and the list is empty until then
    formats = [kind for kind in Image.OPEN if _is_picture(kind)]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            # Pillow itself only warns up to twice the bound
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise RejectedImageError(_bomb(f"{image.width}x{image.height} px"))  # noqa: TRY301
            image.load()
            return DecodedImage(upright_rgb(image), hashlib.sha256(data).hexdigest())
    except RejectedImageError:
        raise
    except UnidentifiedImageError:
        raise RejectedImageError("not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError:
        raise RejectedImageError(_bomb("more than twice that")) from None
    except MemoryError:
        raise UnreadableImageError("too large for the memory") from None
    except Exception as error:  # Pillow's plugins report damage by nearly every kind of error
        raise RejectedImageError(f"corrupt or truncated: {str(error) or repr(error)}") from None


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """ADM's square crop: halve while the short side is at least twice the target, then bicubic, then the centre.

    Args:
        image: RGB.
        side: px of the square.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def resize(image: Image.Image, size: Size) -> Image.Image:
    """Bicubic, to a size in px."""
    if (image.height, image.width) == (size.height, size.width):
        return image
    return image.resize((size.width, size.height), Image.Resampling.BICUBIC)


def _is_picture(kind: str) -> bool:
    # an MPO (several JPEGs in one) is opened as a JPEG
    return (kind in Image.OPEN or kind == "MPO") and kind not in NOT_PICTURES


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, relative to it; links are followed, once each."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot look into {error.filename}: {error.strerror}",
            wanted="a folder that this user may read",
            fix="change its permissions, or move it away",
        ) from error

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back up would go round for ever
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name).relative_to(folder) for name in names if not name.startswith(".")]
    return found


def as_text(name: str) -> str:
    """A file's name as text that can be written; one that is not UTF-8 then leads nowhere, and reading rejects it."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_bytes(size: int) -> None:
    """Refuse files that are larger than any image of an allowed size, before they are read.

    Raises:
        RejectedImageError: this one is.
    """
    if size > BYTES_PER_PX * (Image.MAX_IMAGE_PIXELS or sys.maxsize):
        raise RejectedImageError(f"too large to decode safely: {size:,} bytes")


def read_file(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        RejectedImageError: it is too large.
        UnreadableImageError: the disk or the permissions are in the way, or memory is short.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, for ever
            raise UnreadableImageError("not a file")
        check_bytes(status.st_size)
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from None
    except MemoryError:
        raise UnreadableImageError("too large for the memory") from None


def _bomb(size: str) -> str:
    return f"too large to decode safely: {size}, where {Image.MAX_IMAGE_PIXELS:,} px is the bound"


def upright_rgb(image: Image.Image) -> Image.Image:
    """Upright by EXIF, 8-bit RGB, alpha over white.

    Raises:
        RejectedImageError: values of which is not known what is white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_high_depth(image)
    if image.mode == "La":  # Pillow undoes premultiplied grey in this step only
        image = image.convert("LA")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_high_depth(image: Image.Image) -> Image.Image:
    """16-bit and float greyscale, scaled to 8 bits rather than clipped, as `convert` would.

    White is 65,535 in integers (Pillow gives 16-bit files as I;16 or as I), and 1 in floats, or 255 where any is
    above 1.
    """
    values = np.asarray(image).astype(np.float64)
    transparent = image.info.get("transparency")
    white = 65535.0 if image.mode != "F" else 1.0 if values.max(initial=0) <= 1 else 255.0
    if not ((values >= 0) & (values <= white)).all():  # not a number, too
        raise RejectedImageError(f"its values run from {values.min():g} to {values.max():g}, and white is not known")
    if isinstance(transparent, int):
        values[values == transparent] = white
    return Image.fromarray((values / white * 255).round().astype(np.uint8)).convert("RGB")
