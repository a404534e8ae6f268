"""A frozen network as a teacher (REPA, arXiv 2410.06940): one feature for each square of an image, on its own shape."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from ..config import suggestion
from ..errors import ConfigError, DataError
from ..grid import Grid
from ..shapes import Num, Tensor, UInt8
from .features import MapNetwork, load_network

TEACHERS = ("efficientnet-lite0", "efficientnet-lite2", "dinov2", "radio")


def load_teacher(name: str, device: torch.device, weights: str | None = None) -> MapNetwork:
    """The network of this name.

    Args:
        name: one of `TEACHERS`.
        device: where it runs.
        weights: of dinov2 a folder, by default they are downloaded; of radio a folder or hub id. The others are
            packages.

    Raises:
        ConfigError: an unknown name, or weights that do not go with it.
        BackendError: a package is not installed.
        DataError: its weights cannot be downloaded.
        CheckpointError: its weights are of another network.
    """
    if name not in TEACHERS:
        raise ConfigError(
            f"got teacher {name!r}",
            wanted=f"one of {', '.join(TEACHERS)}",
            fix=suggestion(name, TEACHERS) or "use one of them",
        )
    if name == "radio":
        from .radio import Radio

        return Radio(device, weights)
    return load_network(name, device, Path(weights) if weights is not None else None)


class Teacher:
    """Gives features of images as they are stored: one for each position of a grid, whatever the network's stride.

    The image is resized so that a position of the network's map lies over each square of the grid: to the grid times
    the network's stride, bicubic with antialiasing, which keeps its shape. Where the stride is the squares' side
    nothing is resized. Of a feature only its direction counts in the loss, so each is divided by its largest magnitude:
    then neither float16 nor 8 bits can overflow, and no scale is stored.

    Args:
        network: any that maps images to a grid of features.
        dtype: what features are stored in.
        device: where images are resized: the network's.
    """

    def __init__(
        self, network: MapNetwork, dtype: Literal["float16", "int8"], device: torch.device | str = "cpu"
    ) -> None:
        self._network, self.dtype, self._device = network, dtype, device
        self.identity, self.px = network.identity, network.map_px
        self.dim = self._maps(torch.full((1, 3, self.px, self.px), 128, dtype=torch.uint8), Grid(1, 1)).shape[1]

    @property
    def bytes(self) -> int:
        """Of a feature, on disk."""
        return self.dim * np.dtype(self.dtype).itemsize

    def features(self, pixels: np.ndarray, grid: Grid) -> Num[np.ndarray, "images tokens dim"]:
        """Features of images of one size, in row-major order.

        Args:
            pixels: (images, height, width, 3) uint8.
            grid: that the image is divided into.

        Raises:
            ConfigError: the network gives a map of another size.
            DataError: a feature is not finite.
        """
        images = rearrange(torch.from_numpy(pixels).to(self._device), "n h w c -> n c h w")
        found = self._directions(images, grid)
        if not bool(found.isfinite().all()):
            raise DataError(
                f"the teacher {self.identity} gives features that are not finite",
                wanted="finite numbers",
                fix="use --dtype float32, or another teacher",
            )
        return self._stored(found).cpu().numpy()

    def see(self, images: UInt8[Tensor, "images 3 height width"], grid: Grid) -> Num[Tensor, "images tokens dim"]:
        """The same of images on the device, there, without waiting for it: what is not finite stays so.

        Raises:
            ConfigError: the network gives a map of another size.
        """
        return self._stored(self._directions(images, grid))

    def _stored(self, directions: Tensor) -> Tensor:
        return directions.half() if self.dtype == "float16" else (127 * directions).round().to(torch.int8)

    def _directions(self, images: Tensor, grid: Grid) -> Tensor:
        wanted = (grid.height * self.px, grid.width * self.px)
        if images.shape[-2:] != wanted:
            resized = F.interpolate(images.float(), wanted, mode="bicubic", antialias=True)
            images = resized.clamp(0, 255).round().to(torch.uint8)
        found = rearrange(self._maps(images, grid).float(), "n c h w -> n (h w) c")
        # a feature of zeros has no direction, and stays
        return found / found.abs().amax(dim=2, keepdim=True).clamp(min=1e-12)

    def _maps(self, images: Tensor, grid: Grid) -> Any:
        maps = self._network.maps(images)
        if tuple(maps.shape[-2:]) != (grid.height, grid.width):
            raise ConfigError(
                f"the teacher {self.identity} maps images of {grid.width * self.px}x{grid.height * self.px} px to "
                f"{maps.shape[-1]}x{maps.shape[-2]} features",
                wanted=f"{grid}, one for every {self.px} px",
                fix="give the px that a position of its map stands for as its map_px",
            )
        return maps
