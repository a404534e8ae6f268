"""The images that are trained on, and those that never are."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image

from anyres.errors import DataError
from anyres.latents.format import fraction
from anyres.prepare.images import decode, find_images
from anyres.shapes import Float, Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """RGB images."""

    training: tuple[Image.Image, ...]
    held_out: tuple[Image.Image, ...]


def split(folder: Path, share: float) -> Split:
    """Divide a folder's images as `anyres train --held-out.share` does: by their content alone.

    Raises:
        DataError: there is no such folder, it holds no image, or none is left on one side.
    """
    training, held_out = [], []
    for file in find_images(folder).files:
        image = decode(folder / file.source)
        (held_out if fraction(image.content_hash) < share else training).append(image.pixels)
    if not training or not held_out:
        raise DataError(
            f"of the images in {folder} {len(training)} are to train on, and {len(held_out)} are held out",
            wanted="at least one each",
            fix="use more images, or another --held-out",
        )
    return Split(training=tuple(training), held_out=tuple(held_out))


def to_tensor(image: Image.Image, multiple: int, device: torch.device) -> Float[Tensor, "1 3 height width"]:
    """An image in [−1, 1], its sides cut at the far end to multiples of so many px."""
    height, width = (length // multiple * multiple for length in (image.height, image.width))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).to(device)
    values = rearrange(pixels, "(h w c) -> 1 c h w", h=image.height, c=3)[:, :, :height, :width]
    return values.float() / 127.5 - 1
