"""DINOv2 (arXiv 2304.07193) as a feature network, which agrees better with people than Inception (arXiv 2306.04675)."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from ..errors import BackendError, CheckpointError, ConfigError, DataError, first_line
from ..shapes import Float, Tensor
from .features import SPATIAL_CHANNELS, Features, identity_of, require_uint8

HUB_ID = "facebook/dinov2-large"
SIDE = 224  # px
LETTERS = {384: "s", 768: "b", 1024: "l", 1536: "g"}
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on 0 … 1


class DinoV2:
    """DINOv2 through the library transformers: the class token after the last norm, in float32.

    Images of any shape are stretched to 224x224, bicubic with antialiasing and without rounding, which is the "clean"
    resize of the code of arXiv 2306.04675. Places are the first 7 dimensions of the patch tokens. `maps` are the patch
    tokens of an image at its own size, its sides resized to the nearest multiples of a patch, at least one. Positions
    are interpolated as transformers does it, up to a tenth of a patch from where the original code puts them.

    Args:
        device: where it runs.
        weights: a folder in the form of transformers; by default the large network is downloaded from the hub.

    Raises:
        BackendError: transformers is not installed.
        ConfigError: `weights` is no folder.
        DataError: the weights cannot be downloaded.
        CheckpointError: they are of another network, damaged, or no safetensors.
    """

    protocol = "stretched to 224x224, bicubic with antialiasing, mean and spread of ImageNet, float32"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        try:
            library: Any = importlib.import_module("transformers")
            model, config = library.Dinov2Model, library.AutoConfig  # read on first use, which may fail as well
        except ImportError as error:
            raise BackendError(
                f"DINOv2 needs the library transformers: {error}",
                wanted="it installed",
                fix="pip install transformers (anyres[dinov2] has it)",
            ) from error
        network = _load(model, config, weights).float()  # it is loaded as it was saved, which may be in half precision
        self.dim, self.map_px = network.config.hidden_size, network.config.patch_size
        self.name = f"dinov2-vit-{LETTERS.get(self.dim, f'{self.dim}-')}{self.map_px}"
        self.identity = identity_of(self.name, network.state_dict())
        self._device, self._network = device, network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """(images, 3, height, width) uint8 RGB → features."""
        tokens = self._tokens(images, SIDE, SIDE)
        return Features(pooled=tokens[:, 0], spatial=tokens[:, 1:, :SPATIAL_CHANNELS].flatten(1), probabilities=None)

    @torch.no_grad()
    def maps(self, images: Tensor) -> Float[Tensor, "images channels rows columns"]:
        """(images, 3, height, width) uint8 RGB, at its own size to the nearest multiple of a patch → patch tokens."""
        rows, columns = (max(1, round(side / self.map_px)) for side in images.shape[-2:])
        tokens = self._tokens(images, rows * self.map_px, columns * self.map_px)
        return rearrange(tokens[:, 1:], "n (h w) c -> n c h w", h=rows, w=columns)

    def _tokens(self, images: Tensor, height: int, width: int) -> Float[Tensor, "images tokens dim"]:
        """The class token, then the patches', row by row."""
        require_uint8(images)
        x = images.to(self._device).float() / 255
        if x.shape[-2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        mean, spread = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (MEAN, SPREAD))
        return self._network(pixel_values=(x - mean) / spread).last_hidden_state


def _load(model: Any, config: Any, weights: Path | None) -> Any:
    """The network, by transformers' classes for it and for configurations."""
    if weights is not None and not weights.is_dir():
        raise ConfigError(
            f"got weights {weights} for dinov2",
            wanted="a folder with config.json and model.safetensors",
            fix="name the folder, not a file in it",
        )
    name = HUB_ID if weights is None else str(weights)
    with _loading(name, local=weights is not None):
        found = config.from_pretrained(name)
    _require(found.model_type == "dinov2", f"{name} is a {found.model_type}")
    with _loading(name, local=weights is not None):
        network, info = model.from_pretrained(name, config=found, use_safetensors=True, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    _require(not missing, f"{name} lacks {', '.join(missing[:3])}")
    return network


def _require(condition: bool, got: str) -> None:
    if not condition:
        raise CheckpointError(got, wanted="weights of DINOv2 in the form of transformers", fix=f"use {HUB_ID}")


@contextmanager
def _loading(name: str, *, local: bool) -> Iterator[None]:
    """Say in our words what transformers could not load."""
    try:
        yield
    except Exception as error:  # the kinds of error, the hub's and those of damage, differ between versions
        said = f"DINOv2 cannot be loaded from {name}: {first_line(error)}"
        if local:
            wanted = "config.json and model.safetensors there"
            raise CheckpointError(said, wanted=wanted, fix=f"fetch {HUB_ID} again") from error
        raise DataError(
            said,
            wanted="a connection to the hub, once",
            fix="pass a folder by --weights, or use --network efficientnet-lite2, which needs no download",
        ) from error
