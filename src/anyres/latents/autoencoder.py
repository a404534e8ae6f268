"""Autoencoders: images ↔ latents, behind one small protocol."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from ..config import require
from ..files import write_json
from ..shapes import Float, Tensor
from ..weightfiles import rounded, write_weights
from .running import default_dtype, running
from .tiles import in_tiles

AUTOENCODER = "autoencoder"  # the folder of one, in that of a dataset or a model
DIFFUSERS_STEM = "diffusion_pytorch_model"  # of the files of weights


@dataclass(frozen=True, kw_only=True)
class LatentScaling:
    """From an autoencoder's latents to what the network sees: (raw − shift)·factor, a value a channel.

    Attributes:
        shift: subtracted first.
        factor: multiplied then.
    """

    shift: tuple[float, ...]
    factor: tuple[float, ...]

    def __post_init__(self) -> None:
        require(
            len(self.shift) == len(self.factor) > 0,
            f"{len(self.shift)} shifts and {len(self.factor)} factors",
            "one of each a channel",
        )
        require(all(factor != 0 for factor in self.factor), "a factor of 0", "factors that can be divided by")

    @classmethod
    def uniform(cls, channels: int, *, factor: float, shift: float = 0.0) -> "LatentScaling":
        """The same for every channel."""
        return cls(shift=(shift,) * channels, factor=(factor,) * channels)

    def to_model(self, cells: Float[Tensor, "*cells channels"]) -> Float[Tensor, "*cells channels"]:
        """Raw latents, channels last → the network's, in float32 or better."""
        dtype = torch.promote_types(cells.dtype, torch.float32)
        shift, factor = (cells.new_tensor(each, dtype=dtype) for each in (self.shift, self.factor))
        return cells.to(dtype, copy=True).sub_(shift).mul_(factor)

    def of_tokens(self, patch: int) -> "LatentScaling":
        """The same for tokens, whose values are (channels, patch, patch), flattened."""
        shift, factor = (tuple(one for one in each for _ in range(patch**2)) for each in (self.shift, self.factor))
        return LatentScaling(shift=shift, factor=factor)

    def from_model(self, cells: Float[Tensor, "*cells channels"]) -> Float[Tensor, "*cells channels"]:
        """The network's latents, channels last → raw."""
        return cells / cells.new_tensor(self.factor) + cells.new_tensor(self.shift)


@dataclass(frozen=True, kw_only=True)
class AutoencoderIdentity:
    """Which autoencoder made some latents.

    Attributes:
        kind: its class, such as "AutoencoderDC".
        name: the folder (absolute) or hub id that it was loaded from.
        revision: the hub repository's commit.
        fingerprint: the start of a hash over its weights.
        channels: channels of a cell.
        px_per_cell: px a side of a cell.
    """

    kind: str
    name: str
    revision: str | None
    fingerprint: str
    channels: int
    px_per_cell: int

    def same_as(self, other: "AutoencoderIdentity") -> bool:
        """Whether both make the same latents: the weights decide, not where they lie."""
        return (self.kind, self.fingerprint) == (other.kind, other.fingerprint)

    def describe(self) -> str:
        """In words, for messages."""
        return f"{self.kind} {self.name} ({self.fingerprint})"


@runtime_checkable
class Autoencoder(Protocol):
    """Images ↔ latents. Images are RGB in [−1, 1]; latents are as the autoencoder gives them, unscaled."""

    @property
    def identity(self) -> AutoencoderIdentity:
        """Which one it is."""
        ...

    @property
    def scaling(self) -> LatentScaling:
        """How its latents are scaled for the network."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; images and latents are float32 all the same."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) in px → (batch, channels, height, width) in cells."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(batch, channels, height, width) in cells → (batch, 3, height, width) in px."""
        ...

    def save(
        self, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
    ) -> AutoencoderIdentity:
        """Write `config.json` and safetensors.

        Args:
            folder: made if missing.
            dtype: round the weights to it, such as torch.float16; by default they stay as they are.
            max_shard_size: of a file, in bytes or such as "15MB".

        Returns:
            Which autoencoder the folder holds: another, where rounding has changed a weight.
        """
        ...

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Autoencoder":
        """The autoencoder on a device.

        Args:
            device: to run on.
            dtype: to compute in; by default bfloat16 on CUDA and float32 elsewhere. What `save` writes stays as it was
                loaded. A kind that gains nothing from less than float32 keeps it.
        """
        ...


class DiffusersAutoencoder:
    """An autoencoder of diffusers; subclasses say how latents are taken out.

    Images of more than `tiles.WHOLE_PX` are taken in tiles.

    Args:
        network: the diffusers model, in float32 on the CPU.
        name: folder or hub id.
        revision: the hub's.
    """

    def __init__(self, network: Any, *, name: str, revision: str | None = None) -> None:
        self.network = self._running = network.eval().requires_grad_(False)
        self.identity = AutoencoderIdentity(
            kind=type(network).__name__,
            name=name,
            revision=revision,
            fingerprint=fingerprint(network.state_dict()),
            channels=int(network.config["latent_channels"]),
            px_per_cell=self._px_per_cell(),
        )

    @property
    def scaling(self) -> LatentScaling:
        """From the model's configuration."""
        config = self.network.config
        factor, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        return LatentScaling.uniform(self.identity.channels, factor=float(factor), shift=float(shift))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._running.dtype

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels high wide"]:
        """Images → latents, unscaled."""
        px = self.identity.px_per_cell
        cells = (images.shape[2] // px, images.shape[3] // px)
        return in_tiles(self._encoded, images, cells=cells, px_per_cell=px, channels=self.identity.channels, finer=1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch channels high wide"]) -> Float[Tensor, "batch 3 height width"]:
        """Latents, unscaled → images."""
        px, cells = self.identity.px_per_cell, (latents.shape[2], latents.shape[3])
        return in_tiles(self._decoded, latents, cells=cells, px_per_cell=px, channels=3, finer=px)

    def save(
        self, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
    ) -> AutoencoderIdentity:
        """Write diffusers' own layout, safetensors only; see `Autoencoder.save`."""
        state = rounded(self.network.state_dict(), dtype)
        write_weights(state, folder, DIFFUSERS_STEM, max_shard_size=max_shard_size)
        config = json.loads(self.network.to_json_string())
        config.pop("_name_or_path", None)  # where it was loaded from means nothing to others
        write_json(folder / "config.json", config)
        return replace(self.identity, fingerprint=fingerprint(state))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "DiffusersAutoencoder":
        """Run on a device from now on; see `Autoencoder.to`."""
        dtype = default_dtype(device) if dtype is None else dtype
        self._running = running(self.network, device, dtype)
        return self

    def _px_per_cell(self) -> int:
        raise NotImplementedError

    def _latents(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _encoded(self, images: Tensor) -> Tensor:
        return self._latents(images.to(self.dtype, memory_format=torch.channels_last)).float()

    def _decoded(self, latents: Tensor) -> Tensor:
        return self._running.decode(latents.to(self.dtype, memory_format=torch.channels_last)).sample.float()


class DcAutoencoder(DiffusersAutoencoder):
    """`AutoencoderDC`: deterministic, high compression (DC-AE, arXiv 2410.10733); the paper's."""

    def _px_per_cell(self) -> int:
        return 2 ** (len(self.network.config["encoder_block_out_channels"]) - 1)

    def _latents(self, images: Tensor) -> Tensor:
        return self._running.encode(images).latent


class KlAutoencoder(DiffusersAutoencoder):
    """`AutoencoderKL` (arXiv 2112.10752); the posterior's mean is taken, so that encoding is deterministic."""

    def _px_per_cell(self) -> int:
        return 2 ** (len(self.network.config["block_out_channels"]) - 1)

    def _latents(self, images: Tensor) -> Tensor:
        return self._running.encode(images).latent_dist.mean


def fingerprint(state: dict[str, Tensor]) -> str:
    """The first 16 hex digits of SHA-256 over names, shapes and values, in float32."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
