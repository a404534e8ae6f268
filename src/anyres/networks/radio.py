"""RADIO (arXiv 2312.06709; version 2.5: arXiv 2412.07679), the teacher of the published runs."""

import importlib
import logging
from typing import Any

import torch
from einops import rearrange

from .. import hub
from ..errors import BackendError, CheckpointError, ConfigError, first_line
from ..shapes import Float, Tensor
from .features import identity_of, require_uint8

logger = logging.getLogger(__name__)

# of NVlabs/RADIO's README
LICENCE = (
    "RADIO's weights are licensed by NVIDIA: those named RADIO or E-RADIO under its source code licence, for "
    "non-commercial use only; those named C-RADIO under the NVIDIA Open Model License"
)
SOURCES = "nvidia/RADIO (ViT-H), nvidia/RADIO-B, nvidia/C-RADIO (ViT-H)"


class Radio:
    """RADIO from the hub or a folder, through transformers: the features of an image's patches, in float32.

    The repository's own Python code is run: it is what defines the network.

    Args:
        device: where it runs.
        source: hub id or folder, such as "nvidia/RADIO". There is no default: see `LICENCE`.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ConfigError: no source, or nothing has this name.
        BackendError: transformers or a library that the repository's code needs is not installed.
        DataError: the hub cannot be reached.
        CheckpointError: what is there cannot be loaded, or is another network.
    """

    name = "radio"

    def __init__(self, device: torch.device, source: str | None, revision: str | None = None) -> None:
        if source is None:
            raise ConfigError(
                f"radio was chosen, and not which. {LICENCE}",
                wanted="a folder or a hub id, whose Python code will be run",
                fix=f"pass --teacher-weights, such as {SOURCES}",
            )
        logger.warning("%s", LICENCE)  # where it is chosen, whatever -v says
        network = _load(source, revision).float()
        self.map_px = int(network.patch_size)
        self.identity = identity_of(self.name, network.state_dict())
        self._device, self._network = device, network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def maps(self, images: Tensor) -> Float[Tensor, "images channels rows columns"]:
        """(images, 3, height, width) uint8, whole patches a side → patch features."""
        require_uint8(images)
        rows, columns = (side // self.map_px for side in images.shape[-2:])
        # it normalises values in 0 … 1 itself, and gives (summary, features row by row)
        features = self._network(images.to(self._device).float() / 255)[1]
        return rearrange(features, "n (h w) c -> n c h w", h=rows, w=columns)


def _load(source: str, revision: str | None) -> Any:
    folder = hub.resolve(source, revision=revision, wanted=(*hub.WANTED_FILES, "*.py"))
    try:
        library: Any = importlib.import_module("transformers")
        network = library.AutoModel.from_pretrained(folder, trust_remote_code=True, use_safetensors=True)
    except ImportError as error:
        raise BackendError(
            f"RADIO needs a library that is missing: {first_line(error)}",
            wanted="transformers, and what the repository's code imports",
            fix="pip install transformers timm (anyres[radio] has both)",
        ) from error
    except Exception as error:  # the kinds of error differ between versions
        raise CheckpointError(
            f"RADIO cannot be loaded from {source}: {first_line(error)}",
            wanted="config.json with the code that it names, and model.safetensors",
            fix=f"use one of {SOURCES}",
        ) from error
    if not hasattr(network, "patch_size"):
        raise CheckpointError(
            f"{source} is a {type(network).__name__}", wanted="RADIO's weights", fix=f"use one of {SOURCES}"
        )
    return network
