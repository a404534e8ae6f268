"""The precision of matrix products."""

from contextlib import AbstractContextManager, nullcontext

import torch

from .config import TrainConfig


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager:
    """bfloat16 matrix products where the configuration asks for them."""
    if not in_bfloat16(config, device):
        return nullcontext()
    # each weight is used once a pass, and a cache would outlive the recording of a CUDA graph
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether the run's matrix products are in bfloat16, all or those that are not in 8 bits."""
    return config.precision in ("bfloat16", "float8") or (config.precision == "auto" and device.type == "cuda")
