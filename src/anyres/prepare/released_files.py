"""The files of the published latents: a manifest of JSON lines, a safetensors an image, lists of packs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load

from ..errors import DataError
from ..files import read_json
from ..latents.format import Variant
from ..shapes import Float, Tensor
from .images import RejectedImageError, UnreadableImageError

TYPES: dict[str, Variant] = {
    "native-resolution": "native",
    "fixed-256x256": "square-256",
    "fixed-512x512": "square-512",
}
_NUMBERS = ("ori_h", "ori_w", "image_h", "image_w", "latent_h", "latent_w")


@dataclass(frozen=True, slots=True)
class ReleasedLine:
    """A line of the manifest.

    Attributes:
        image_file: the image's path.
        latent_file: the latent's, in the folder of its type.
        variant: what the type is here.
        original: (height, width) of the image, px.
        image: (height, width) that was encoded, px.
        cells: (height, width) of the latent.
    """

    image_file: str
    latent_file: str
    variant: Variant
    original: tuple[int, int]
    image: tuple[int, int]
    cells: tuple[int, int]

    @property
    def id(self) -> str:
        """What the dataset's manifest calls it."""
        return f"{self.image_file}#{self.variant}"


@dataclass(frozen=True, eq=False)
class ReleasedLatent:
    """What a latent's file holds.

    Attributes:
        plain: (channels, height, width), multiplied by the autoencoder's scaling factor.
        flipped: of the mirrored image.
        label: the class's number.
    """

    plain: Float[Tensor, "channels high wide"]
    flipped: Float[Tensor, "channels high wide"]
    label: int


def read_manifest(path: Path) -> list[ReleasedLine]:
    """The lines of a manifest.

    Raises:
        DataError: it cannot be read, is empty, or a line is of another form or there twice; the line is named.
    """
    lines: list[ReleasedLine] = []
    seen: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                line = _line(text, f"line {number} of {path}")
                if line.id in seen:
                    raise DataError(
                        f"lines {seen[line.id]} and {number} of {path} are of the same image and type",
                        wanted="each once",
                        fix="remove one of them",
                    )
                seen[line.id] = number
                lines.append(line)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the manifest {path} cannot be read: {error}", wanted="a file of JSON lines", fix="check the path"
        ) from error
    if not lines:
        raise DataError(f"the manifest {path} is empty", wanted="a line a latent", fix="fetch it again")
    return lines


def read_latent(path: Path) -> ReleasedLatent:
    """A latent's file.

    Raises:
        UnreadableImageError: the disk or the permissions are in the way, or it is not there.
        RejectedImageError: it is damaged, or of another form.
    """
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read: {error.strerror}") from None
    except SafetensorError as error:
        raise RejectedImageError(f"corrupt or truncated: {error}") from None
    latent, label = tensors.get("latent"), tensors.get("label")
    if latent is None or latent.ndim != 4 or len(latent) != 2 or label is None or label.numel() != 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise RejectedImageError(f"it holds {shapes}, not latent (2, channels, height, width) and label")
    number = float(label)  # the released preparation makes all float32, the label too
    if not number.is_integer():
        raise RejectedImageError(f"its label is {number}")
    return ReleasedLatent(plain=latent[0], flipped=latent[1], label=int(number))


def read_packs(path: Path, lines: int) -> list[np.ndarray]:
    """A JSON list of packs, each a list of numbers of the manifest's lines, counted from 0.

    Args:
        path: the file.
        lines: how many the manifest has.

    Raises:
        DataError: it cannot be read, is of another form, or names a line twice or one that is not there.
    """
    packs = read_json(path)
    whole = isinstance(packs, list) and len(packs) > 0
    if not whole or not all(isinstance(pack, list) and pack and all(type(n) is int for n in pack) for pack in packs):
        raise DataError(
            f"{path} is no list of packs", wanted="a JSON list of lists of line numbers", fix="fetch it again"
        )
    every = np.concatenate([np.array(pack, dtype=np.int64) for pack in packs])
    if every.min() < 0 or every.max() >= lines:
        raise DataError(
            f"{path} names line {every.min() if every.min() < 0 else every.max()}, and the manifest has {lines}",
            wanted="packs of this manifest, whose lines count from 0",
            fix="pass the manifest that the packs were made of",
        )
    named = np.bincount(every)
    if named.max() > 1:
        raise DataError(
            f"{path} names line {named.argmax()} {named.max()} times", wanted="each once", fix="fetch it again"
        )
    return [np.array(pack, dtype=np.int64) for pack in packs]


def _line(text: str, where: str) -> ReleasedLine:
    try:
        entry: Any = json.loads(text)
        names = [entry["image_file"], entry["latent_file"], entry["type"]]
        numbers = [entry[name] for name in _NUMBERS]
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(text, where) from error
    whole_names = all(isinstance(name, str) and "\0" not in name for name in names)
    if not whole_names or not all(type(number) is int and number > 0 for number in numbers):
        raise _wrong(text, where)
    image_file, latent_file, kind = names
    if kind not in TYPES:
        raise DataError(f"{where} is of type {kind!r}", wanted=f"one of {', '.join(TYPES)}", fix="fetch it again")
    original_h, original_w, image_h, image_w, latent_h, latent_w = numbers
    return ReleasedLine(
        image_file, latent_file, TYPES[kind], (original_h, original_w), (image_h, image_w), (latent_h, latent_w)
    )


def _wrong(text: str, where: str) -> DataError:
    return DataError(
        f"{where} is {text.strip()[:200]!r}",
        wanted=f"a JSON object with image_file, latent_file, type and {', '.join(_NUMBERS)}",
        fix="fetch the manifest again",
    )
