"""PatchPCA: a linear autoencoder, fitted to images in seconds on a CPU.

Each patch × patch square of an image is projected on the principal directions of such squares. It needs no training,
so tutorials and tests can run anywhere, and it is the baseline that a learned autoencoder must beat.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from .. import noise
from ..errors import ConfigError, DataError
from ..files import write_json
from ..shapes import Float, Tensor
from ..weightfiles import rounded, write_weights
from .autoencoder import AutoencoderIdentity, LatentScaling, fingerprint

STEM = "model"  # of the files of weights
PATCH, CHANNELS = 8, 32  # px a cell, directions kept
FIT_PATCHES = 4096  # patches of an image that the fit sees, at most


class PatchPCA:
    """Projection of patches on their principal directions, and back.

    Args:
        basis: orthonormal directions, (channels, 3·patch²), a patch laid out (3, patch, patch).
        mean: mean patch, (3·patch²,).
        spread: standard deviation of each channel over the images that it was fitted to.
    """

    def __init__(
        self,
        basis: Float[Tensor, "channels values"],
        mean: Float[Tensor, "values"],
        spread: Float[Tensor, "channels"],
    ) -> None:
        self.basis, self.mean, self.spread = basis, mean, spread
        self.patch = math.isqrt(basis.shape[1] // 3)
        self.identity = AutoencoderIdentity(
            kind="PatchPCA",
            name="patch-pca",
            revision=None,
            fingerprint=fingerprint(self._state()),
            channels=basis.shape[0],
            px_per_cell=self.patch,
        )

    @classmethod
    def fit(cls, images: Iterable[Tensor], *, patch: int = PATCH, channels: int = CHANNELS) -> "PatchPCA":
        """Fit to images.

        Args:
            images: (3, height, width) each, in [−1, 1], sides multiples of `patch` px; read once, not kept. Of a large
                image some patches are taken, at random.
            patch: px a side of a cell.
            channels: directions kept.

        Raises:
            ConfigError: more channels than a patch has values.
            DataError: too few patches to fit that many directions.
        """
        values = 3 * patch * patch
        if not 1 <= channels <= values:
            raise ConfigError(
                f"got {channels} channels for patches of {patch} px", wanted=f"1 to {values}", fix="ask for fewer"
            )
        # in numpy: float64 on the host, whatever the device has
        total, product, count = np.zeros(values), np.zeros((values, values)), 0
        for number, image in enumerate(images):
            rows = _patches(image[None], patch).flatten(0, 2).cpu().numpy().astype(np.float64)
            if len(rows) > FIT_PATCHES:
                rows = rows[noise.generator("PatchPCA.fit", number).permutation(len(rows))[:FIT_PATCHES]]
            total += rows.sum(axis=0)
            product += rows.T @ rows
            count += len(rows)
        if count < values:
            raise DataError(
                f"got {count} patches of {patch} px to fit {values} values",
                wanted=f"at least {values}",
                fix="prepare more or larger images",
            )
        mean = total / count
        covariance = product / count - np.outer(mean, mean)
        variances, directions = np.linalg.eigh(covariance)  # ascending
        basis = directions.T[::-1][:channels]
        # a direction's sign is free: the largest entry is positive, so that refits agree
        largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1, keepdims=True), axis=1)
        spread = np.sqrt(np.maximum(variances[::-1][:channels], 1e-12))
        parts = (basis * np.sign(largest), mean, spread)
        return cls(*(torch.from_numpy(part.astype(np.float32)) for part in parts))

    @property
    def scaling(self) -> LatentScaling:
        """Half whitening: each channel over the root of its spread, at unit mean variance.

        Whitening whole would make the finest channel, which the eye hardly sees, as loud as the brightness.
        """
        spread = self.spread.tolist()
        # the scaled variance of a channel is its spread
        mean = sum(spread) / len(spread)
        return LatentScaling(shift=(0.0,) * len(spread), factor=tuple(1 / math.sqrt(each * mean) for each in spread))

    @property
    def dtype(self) -> torch.dtype:
        """Always float32: it is a single product."""
        return self.basis.dtype

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels high wide"]:
        """Images in [−1, 1] → projections."""
        return rearrange((_patches(images, self.patch) - self.mean) @ self.basis.T, "b h w c -> b c h w")

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch channels high wide"]) -> Float[Tensor, "batch 3 height width"]:
        """Projections → images."""
        patches = rearrange(latents, "b c h w -> b h w c") @ self.basis + self.mean
        return rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", c=3, p=self.patch, q=self.patch)

    def save(
        self, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
    ) -> AutoencoderIdentity:
        """Write `config.json` and `model.safetensors`; see `Autoencoder.save`."""
        state = rounded(self._state(), dtype)
        write_weights(state, folder, STEM, max_shard_size=max_shard_size)
        write_json(
            folder / "config.json",
            {"_class_name": "PatchPCA", "patch": self.patch, "channels": self.identity.channels},
        )
        return replace(self.identity, fingerprint=fingerprint(state))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "PatchPCA":  # noqa: ARG002
        """Move the map, which stays in float32."""
        self.basis, self.mean, self.spread = (tensor.to(device) for tensor in (self.basis, self.mean, self.spread))
        return self

    def _state(self) -> dict[str, Tensor]:
        return {"basis": self.basis, "mean": self.mean, "spread": self.spread}


def _patches(images: Float[Tensor, "batch 3 height width"], patch: int) -> Float[Tensor, "batch high wide values"]:
    """Non-overlapping squares in row-major order, each laid out (3, patch, patch)."""
    return rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=patch, q=patch)
