"""Networks that turn images into features, behind one protocol. Their names are part of every metric's name."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from ..config import suggestion
from ..errors import ConfigError
from ..shapes import Float, Tensor

SPATIAL_CHANNELS = 7  # of a map, as the ADM evaluator takes them


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """What a network sees in images.

    Attributes:
        pooled: features.
        spatial: features that keep their place, for the spatial Fréchet distance (sFID, arXiv 2103.03841): the first 7
            channels of a map of stride 16, or the like.
        probabilities: of its classes; None for a network without classes.
    """

    pooled: Float[Tensor, "images dim"]
    spatial: Float[Tensor, "images places"]
    probabilities: Float[Tensor, "images classes"] | None


@runtime_checkable
class MapNetwork(Protocol):
    """Images → a map of features: what a teacher is made of."""

    @property
    def name(self) -> str:
        """How metrics and messages name it."""
        ...

    @property
    def identity(self) -> str:
        """The name with a hash of the weights."""
        ...

    @property
    def map_px(self) -> int:
        """Px of an image that a position of `maps` stands for."""
        ...

    def maps(self, images: Tensor) -> Tensor:
        """(images, 3, height, width) uint8 → (images, channels, rows, columns), images at their own size."""
        ...


@runtime_checkable
class FeatureNetwork(MapNetwork, Protocol):
    """Images → features."""

    @property
    def protocol(self) -> str:
        """How images are brought to its input, in words."""
        ...

    @property
    def dim(self) -> int:
        """Number of pooled features."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """(images, 3, height, width) uint8, on any device → features on the network's."""
        ...


# in the order in which messages offer them: those that need no download first
NETWORKS = ("efficientnet-lite2", "efficientnet-lite0", "inception", "dinov2")


def load_network(name: str, device: torch.device, weights: Path | None = None) -> FeatureNetwork:
    """The feature network of this name.

    Args:
        name: one of `NETWORKS`.
        device: where it runs.
        weights: a file for inception, a folder for dinov2; by default they are downloaded. The others are packages.

    Raises:
        ConfigError: an unknown name, or weights for a network that a package holds.
        BackendError: its package is not installed.
        DataError: its weights cannot be downloaded.
        CheckpointError: its weights are of another network.
    """
    if name not in NETWORKS:
        raise ConfigError(
            f"got feature network {name!r}",
            wanted=f"one of {', '.join(NETWORKS)}",
            fix=suggestion(name, NETWORKS) or "use one of them",
        )
    if name == "inception":
        from .inception import FidInception

        return FidInception(device, weights)
    if name == "dinov2":
        from .dinov2 import DinoV2

        return DinoV2(device, weights)
    if weights is not None:
        raise ConfigError(f"got weights for {name!r}", wanted="none: a package holds them", fix="leave --weights out")
    from .lite import EfficientNetLite

    return EfficientNetLite(name, device)


def require_uint8(images: Tensor) -> None:
    """Refuse images whose values are not 8-bit: quantisation is part of what is measured.

    Raises:
        ConfigError: another dtype.
    """
    if images.dtype != torch.uint8:
        raise ConfigError(
            f"got images of {images.dtype}", wanted="uint8, 0 to 255", fix="round them: (x * 255).round().to(uint8)"
        )


def require_sides(images: Tensor, least: int) -> None:
    """Refuse images that are too small for a network's maps.

    Args:
        images: (…, height, width).
        least: px of a side.

    Raises:
        ConfigError: a side is shorter.
    """
    height, width = images.shape[-2:]
    if min(height, width) < least:
        raise ConfigError(
            f"got an image of {width}x{height} px for feature maps",
            wanted=f"sides of at least {least} px",
            fix="enlarge it, or leave it out",
        )


def identity_of(name: str, state: Mapping[str, Tensor]) -> str:
    """A network's name with a hash of its weights."""
    return f"{name} ({weights_hash(state)[:12]})"


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """A hash of a network's weights and their names."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(key.encode())
        found.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
