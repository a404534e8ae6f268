"""DINOv2 (arXiv 2304.07193) as a feature network, which agrees better with people than Inception (arXiv 2306.04675)."""

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange

from ..errors import BackendError, CheckpointError, ConfigError, DataError, first_line
from ..shapes import Float, Tensor, UInt8
from .features import SPATIAL_CHANNELS, Features, identity_of, require_uint8

HUB_ID = "facebook/dinov2-large"
SIDE = 224  # px
LETTERS = {384: "s", 768: "b", 1024: "l", 1536: "g"}
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on 0 … 1


class DinoV2:
    """DINOv2 through the library transformers: the class token after the last norm.

    Images of any shape are stretched to 224x224, bicubic with antialiasing. Places are the first 7 dimensions of the
    patch tokens; `maps` are the patch tokens of an image at its own size, to the nearest multiple of a patch.

    Args:
        device: where it runs.
        weights: a folder in the form of transformers; by default the large network is downloaded from the hub.

    Raises:
        BackendError: transformers is not installed.
        DataError: the weights cannot be downloaded.
        CheckpointError: they are of another network.
    """

    protocol = "stretched to 224x224, bicubic with antialiasing, mean and spread of ImageNet, float32"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        try:
            library: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise BackendError(
                f"DINOv2 needs the library transformers: {error}",
                wanted="it installed",
                fix="pip install 'anyres[dinov2]'",
            ) from error
        network = _load(library, weights)
        self.dim, self.map_px = network.config.hidden_size, network.config.patch_size
        self.name = f"dinov2-vit-{LETTERS.get(self.dim, self.dim)}{self.map_px}"
        self.identity = identity_of(self.name, network.state_dict())
        self._device, self._network = device, network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "images 3 height width"]) -> Features:
        """Uint8 RGB → features."""
        tokens = self._tokens(images, SIDE, SIDE)
        return Features(pooled=tokens[:, 0], spatial=tokens[:, 1:, :SPATIAL_CHANNELS].flatten(1), probabilities=None)

    @torch.no_grad()
    def maps(self, images: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images channels rows columns"]:
        """Uint8 RGB, at its own size → patch tokens."""
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


def _load(library: Any, weights: Path | None) -> Any:
    name = HUB_ID if weights is None else str(weights)
    if weights is not None and not weights.is_dir():
        raise ConfigError(f"got weights {weights}", wanted="a folder with config.json and safetensors", fix="check it")
    try:
        network, info = library.Dinov2Model.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # the hub's transport, and with it the kinds of error, differ between versions
        raise DataError(
            f"DINOv2 cannot be loaded from {name}: {first_line(error)}",
            wanted="a connection to the hub, or a folder with config.json and safetensors",
            fix="pass a folder by --weights, or use --network efficientnet-lite2, which needs no download",
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{name} is no DINOv2: it lacks {sorted(info['missing_keys'])[0]}",
            wanted="weights of DINOv2",
            fix=f"use {HUB_ID}",
        )
    return network
