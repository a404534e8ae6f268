"""Latents → images."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from ..latents.autoencoder import Autoencoder
from ..shapes import Float, Tensor


def decode_images(latents: Sequence[Tensor], autoencoder: Autoencoder, px_together: int) -> list[Image.Image]:
    """Decode latents; those of equal size together.

    Args:
        latents: (channels, cells high, cells wide) each, unscaled.
        autoencoder: on the latents' device.
        px_together: bounds a batch, in px; a larger image goes alone.

    Returns:
        RGB images, in the order of the latents.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, latent in enumerate(latents):
        groups.setdefault(tuple(latent.shape), []).append(i)
    images: dict[int, Image.Image] = {}
    for (_, high, wide), members in groups.items():
        batch = max(1, px_together // (high * wide * autoencoder.identity.px_per_cell**2))
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            pixels = _to_pixels(autoencoder.decode(torch.stack([latents[i] for i in part]).float()))
            images |= {i: Image.fromarray(rows) for i, rows in zip(part, pixels, strict=True)}
    return [images[i] for i in range(len(latents))]


def _to_pixels(images: Float[Tensor, "batch 3 height width"]) -> np.ndarray:
    """Images in [−1, 1] → (batch, height, width, 3) uint8."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "b c h w -> b h w c").cpu().numpy()
