"""The list of pictures, how one is made from a package's file, and how it is compared with the list."""

import csv
import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from PIL import Image

from anyres.errors import DataError

MAX_SIDE = 512  # px
ALPHA_SEEN = 8  # of 255: what is fainter does not count for the crop
QUALITY, METHOD = 76, 6  # of the WebP encoder; METHOD is its slowest search, which decides about every byte
CELLS = 4  # a picture's `colours` are the mean colours of CELLS × CELLS equal parts, row by row
COLOUR_TOLERANCE = 2  # of 255, which other encoders stayed within: README.md has the figures
UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises about a file's content

Agreement = Literal["same", "alike"]


@dataclass(frozen=True)
class Listed:
    """A line of `files.csv`: a picture, where it is from, and what it must look like."""

    file: str
    width: int
    height: int
    package: str
    path: str
    license: str
    attribution: str
    sha256: str
    pixels_sha256: str
    colours: str

    @property
    def label(self) -> str:
        """The folder that the picture is in."""
        return self.file.split("/")[0]


def read_list(path: Path) -> list[Listed]:
    """Read `files.csv`.

    Raises:
        DataError: it cannot be read, or a line does not fit.
    """
    columns = [field.name for field in fields(Listed)]
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return [
                Listed(**{**line, "width": int(line["width"]), "height": int(line["height"])})
                for line in csv.DictReader(lines)
            ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be used: {error!r}",
            wanted=f"a table with the columns {', '.join(columns)}",
            fix="restore the file from the repository",
        ) from error


def make(data: bytes, source: str) -> bytes:
    """A picture's WebP: on white, cropped to what can be seen, its longest side at most 512 px.

    Args:
        data: the file from the package.
        source: its name, for the error.

    Raises:
        DataError: it is not an image, or an empty one.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            layered = opened.convert("RGBA")
    except UNREADABLE as error:
        raise DataError(f"{source} cannot be read: {error}", wanted="a PNG or JPEG image", fix=_FIX) from error
    box = layered.getchannel("A").point([255 * (alpha > ALPHA_SEEN) for alpha in range(256)]).getbbox()
    if box is None:
        raise DataError(f"{source} is transparent all over", wanted="a picture with something to see", fix=_FIX)
    white = Image.new("RGBA", layered.size, "white")
    white.alpha_composite(layered)
    picture = white.convert("RGB").crop(box)
    if max(picture.size) > MAX_SIDE:
        scale = MAX_SIDE / max(picture.size)
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=QUALITY, method=METHOD)
    return encoded.getvalue()


def agreement(encoded: bytes, listed: Listed) -> Agreement | None:
    """Whether a WebP is what the list says.

    Another version of the encoder writes other bytes for the same picture, which is as good for training.

    Returns:
        "same" for the same bytes or pixels, "alike" for the same size and colours that differ by
        `COLOUR_TOLERANCE` at most, None for anything else.
    """
    if hashlib.sha256(encoded).hexdigest() == listed.sha256:
        return "same"
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            picture = opened.convert("RGB")
    except UNREADABLE:
        return None
    if picture.size != (listed.width, listed.height):
        return None
    if hashlib.sha256(picture.tobytes()).hexdigest() == listed.pixels_sha256:
        return "same"
    differences = zip(colours(picture), bytes.fromhex(listed.colours), strict=True)
    return "alike" if max(abs(one - other) for one, other in differences) <= COLOUR_TOLERANCE else None


def colours(picture: Image.Image) -> bytes:
    """Red, green and blue of each of the `CELLS` × `CELLS` parts, row by row."""
    return picture.resize((CELLS, CELLS), Image.Resampling.BOX).tobytes()


def check(encoded: bytes, listed: Listed) -> Agreement:
    """What `agreement` says of a picture just made.

    Raises:
        DataError: it is not what the list says.
    """
    agrees = agreement(encoded, listed)
    if agrees is None:
        with Image.open(io.BytesIO(encoded)) as made:
            size = f"{made.width}×{made.height} px"
        raise DataError(
            f"{listed.file}, made from {listed.path} of {listed.package}, is {size} and does not match the list",
            wanted=f"{listed.width}×{listed.height} px, mean colours within {COLOUR_TOLERANCE} of 255 of the list's",
            fix=_FIX,
        )
    return agrees


_FIX = "restore files.csv and packages.json from the repository; if they are unchanged, try another version of Pillow"
