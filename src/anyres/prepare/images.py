"""Finding images, decoding them to upright RGB, and the sizes that they are encoded at."""

import hashlib
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..grid import Size

UNLABELLED = "unlabelled"


class RejectedImageError(Exception):
    """An image file that cannot be used, with the reason; listed and skipped, never fatal."""


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image found.

    Attributes:
        source: path relative to the folder that was searched, with forward slashes.
        label: the class's name.
    """

    source: str
    label: str


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


def find_images(folder: Path) -> list[ImageFile]:
    """The image files of a folder, by their extension, in order of their path.

    A folder directly inside is a class, with all that lies deeper in it; where there are no such folders with images,
    the images of the folder itself are one class, "unlabelled". Hidden files and folders are passed over.

    Raises:
        DataError: there is no such folder, it holds no image, or images beside class folders.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", wanted="a folder of images", fix="check the path")
    known = Image.registered_extensions()
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file()]
    paths = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    loose = [path for path in paths if len(path.parts) == 1]
    if not paths:
        raise DataError(
            f"{folder} holds no image", wanted="image files, in one folder a class or all in one", fix="check the path"
        )
    if loose and len(loose) < len(paths):
        raise DataError(
            f"{folder} holds {len(loose)} images beside class folders, such as {loose[0]}",
            wanted="all images in class folders, or all in one folder",
            fix="move them into a class folder",
        )
    return [ImageFile(path.as_posix(), UNLABELLED if loose else path.parts[0]) for path in paths]


def stamp(path: Path) -> str:
    """A file's size and time, by which a changed file is noticed."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}"


def decode(path: Path) -> DecodedImage:
    """Read an image file: first frame, upright by EXIF, alpha over white, 8-bit RGB.

    Raises:
        RejectedImageError: it is empty, truncated, corrupt, of an unknown kind, or larger than Pillow's bound on
            decompression bombs (about 179 million px).
    """
    try:
        data = path.read_bytes()
        if not data:
            raise RejectedImageError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return DecodedImage(_rgb(ImageOps.exif_transpose(image)), hashlib.sha256(data).hexdigest())
    except UnidentifiedImageError:
        raise RejectedImageError("not an image, or of a kind that cannot be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImageError(f"too large to decode safely: {error}") from None
    # Pillow's plugins report damage by these
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, IndexError, TypeError) as error:
        raise RejectedImageError(f"corrupt or truncated: {error}") from None


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


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; alpha over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_high_depth(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_high_depth(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale, scaled to 8 bits rather than clipped, as `convert` would."""
    values = np.asarray(image).astype(np.float64)
    # Pillow gives 16-bit files as I;16 or as I
    whole = (1.0 if values.max(initial=0) <= 1.0 else 255.0) if image.mode == "F" else 65535.0
    if not np.isfinite(values).all():
        raise ValueError("its values are not finite")
    grey = (values / whole).clip(0, 1) * 255
    return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
