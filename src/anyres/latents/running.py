"""How an autoencoder's network runs on a device: precision, memory format, and with which kernels."""

import copy
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..shapes import Tensor


def default_dtype(device: torch.device) -> torch.dtype:
    """What autoencoders compute in where nothing else is asked for: bfloat16 on CUDA, else float32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def running(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A diffusers autoencoder as it runs on a device; the network itself stays as it was loaded, to be saved as it is.

    Args:
        network: in float32, on the CPU.
        device: to run on.
        dtype: of weights and activations.

    Returns:
        The network itself on a CPU in float32. Otherwise a copy with channels last in memory, as half-precision
        convolutions want them, whose norms are one kernel each, as are on a GPU all steps of DC-AE's blocks between
        their convolutions.
    """
    if (device.type, dtype) == ("cpu", torch.float32):
        return network
    copied = copy.deepcopy(network)
    _fuse_norms(copied)
    nn.Module.to(copied, device, dtype)  # diffusers' own warns of what may need float32, also where nothing does
    copied.to(memory_format=torch.channels_last)
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from .fused import fuse  # Triton is imported only here

        fuse(copied)
    return copied


class RMSNorm(nn.Module):
    """Diffusers' RMSNorm over the last dimension, in torch's one kernel instead of eight.

    Args:
        norm: whose weights it takes.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, values: Tensor) -> Tensor:
        """(…, channels) → the same; the mean square is taken in float32."""
        normed = F.rms_norm(values, values.shape[-1:], self.weight, self.eps)
        return normed if self.bias is None else normed + self.bias


def _fuse_norms(network: nn.Module) -> None:
    from diffusers.models.normalization import RMSNorm as Plain

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Plain):
                setattr(module, name, RMSNorm(child))
