"""Compiling the blocks for training: the same arithmetic in fewer kernels, to rounding.

A block is compiled once for the run's `PackShape`, to which every pack is then padded, and used by all blocks.
"""

import importlib.util

import torch

from ..errors import BackendError
from ..model.attention import pick_backend
from ..model.nit import NiT
from .config import TrainConfig
from .precision import in_bfloat16

# what their plans hold depends on the static shape alone; `sdpa`'s and `reference`'s groups follow the images
STATIC_PLANS = ("varlen",)


def compiles(config: TrainConfig, device: torch.device) -> bool:
    """Whether the run compiles its blocks; "auto" does where it can.

    Raises:
        BackendError: it is asked for where it cannot be.
    """
    if config.compile == "off":
        return False
    missing = _missing(config, device)
    if missing and config.compile == "on":
        raise BackendError(
            f"compile = 'on' needs {missing}",
            wanted="a CUDA device with Triton, and attention by varlen in bfloat16",
            fix="use --compile auto or off",
        )
    return missing is None


def compile_blocks(model: NiT) -> None:
    """Compile the model's blocks in place; its weights keep their names."""
    for block in model.blocks:
        block.compile(dynamic=False)


def _missing(config: TrainConfig, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"a CUDA device, and this run is on {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton, which is not installed"
    dtype = torch.bfloat16 if in_bfloat16(config, device) else torch.float32
    backend = pick_backend(config.attention, device, dtype)
    return None if backend in STATIC_PLANS else f"attention by varlen, and this run has {backend}"
