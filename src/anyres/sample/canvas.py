"""An image before it is made: a picture laid on it, as px and as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

from ..flow.given import GivenTokens
from ..grid import Cells, Size, patchify
from ..latents.autoencoder import Autoencoder, LatentScaling
from ..prepare.encoder import to_images
from ..shapes import Float, Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """What is there of an image before it is made.

    Attributes:
        pixels: RGB, of the image's size; where the picture does not reach, its edge goes on.
        shown: (height, width) bool: px of the picture.
        kept: (height, width) bool: px that stay.
        strength: t at which tokens of the picture that do not stay are released.
        paste: put the px that stay back over the finished image.
        recipe: what was asked for, for an image's metadata.
    """

    pixels: Image.Image
    shown: np.ndarray
    kept: np.ndarray
    strength: float
    paste: bool
    recipe: Mapping[str, Any]

    def release(self, px_per_token: int) -> Float[Tensor, "tokens"]:
        """The time at which each token is released, in row-major order.

        0 where all of its px stay, 1 where the picture does not cover it, else the strength.
        """
        kept, shown = (_whole_tokens(px, px_per_token) for px in (self.kept, self.shown))
        return torch.from_numpy(np.where(kept, 0.0, np.where(shown, self.strength, 1.0)).astype(np.float32))

    def finished(self, image: Image.Image, px_per_token: int) -> Image.Image:
        """The made image, with the px that stay put back over it where that was asked for.

        They go over into the made ones within a token's side: a picture and what the autoencoder makes of it differ,
        so a hard edge would show.
        """
        if not self.paste:
            return image
        return Image.composite(self.pixels, image, Image.fromarray(_softened(self.kept, px_per_token)))


def lay(picture: Image.Image, size: Size, left: int, top: int) -> tuple[Image.Image, np.ndarray]:
    """A picture or a mask on an image, its edge going on where it does not reach, and which px are its own.

    Args:
        picture: RGB or greyscale.
        size: of the image.
        left: px between the image's edge and the picture's.
        top: px, likewise.
    """
    right, bottom = size.width - left - picture.width, size.height - top - picture.height
    margins = ((top, bottom), (left, right))
    values = np.asarray(picture)
    pixels = np.pad(values, (*margins, (0, 0))[: values.ndim], mode="edge")
    shown = np.pad(np.ones(values.shape[:2], dtype=bool), margins)
    return Image.fromarray(pixels), shown


def given_tokens(
    canvases: Sequence[Canvas | None],
    sizes: Sequence[Size],
    *,
    autoencoder: Autoencoder,
    scaling: LatentScaling,
    patch: int,
    device: torch.device,
    dtype: torch.dtype,
) -> GivenTokens:
    """What is known of a pack's tokens. Each picture is encoded by itself, so that it cannot depend on another.

    Args:
        canvases: of the pack's images in order; None for those that are made from noise alone.
        sizes: of the same images.
        autoencoder: of the model.
        scaling: to the network's latents.
        patch: cells a side of a token.
        device: of the solver's state.
        dtype: of the solver's state.
    """
    px_per_cell = autoencoder.identity.px_per_cell
    values = autoencoder.identity.channels * patch**2
    known: dict[Canvas, Tensor] = {}  # several images may start from one canvas
    data, release = [], []
    for canvas, size in zip(canvases, sizes, strict=True):
        cells = size.cells(px_per_cell)
        tokens = cells.grid(patch).tokens
        if canvas is None:
            data.append(torch.zeros(tokens, values, device=device))
            release.append(torch.ones(tokens))
            continue
        if canvas not in known:
            known[canvas] = patchify(scaling.to_model(_encoded(canvas, cells, autoencoder, device)), cells, patch)
        data.append(known[canvas])
        release.append(canvas.release(px_per_cell * patch))
    return GivenTokens(data=torch.cat(data).to(dtype), release=torch.cat(release)[:, None].to(device, dtype))


def _encoded(
    canvas: Canvas, cells: Cells, autoencoder: Autoencoder, device: torch.device
) -> Float[Tensor, "cells channels"]:
    latent = autoencoder.encode(to_images(np.array(canvas.pixels)[None], device))[0].float()
    return rearrange(latent, "c h w -> (h w) c", h=cells.height, w=cells.width)


def _whole_tokens(px: np.ndarray, px_per_token: int) -> np.ndarray:
    """(height, width) bool of px → (tokens,) in row-major order: whether all px of a token are set."""
    return np.all(rearrange(px, "(h p) (w q) -> (h w) (p q)", p=px_per_token, q=px_per_token), axis=1)


def _softened(kept: np.ndarray, px: int) -> np.ndarray:
    """(height, width) bool → opacity, uint8: 255 where all within `px` is kept, falling to 0 at what is not."""
    radius = px // 2
    sides = ((2 * radius + 1, 1), (1, 2 * radius + 1))  # a square, as a column and a row
    opacity = torch.from_numpy(kept).float()[None, None]
    for side in sides:  # the least around, then the mean around
        opacity = -F.max_pool2d(-opacity, side, stride=1, padding=(side[0] // 2, side[1] // 2))
    for side in sides:
        padding = (side[0] // 2, side[1] // 2)
        opacity = F.avg_pool2d(opacity, side, stride=1, padding=padding, count_include_pad=False)
    return (opacity[0, 0] * 255).round().to(torch.uint8).numpy()
