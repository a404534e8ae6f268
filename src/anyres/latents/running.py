"""How an autoencoder's network runs on a device: precision, memory format, and what is compiled when."""

import copy
import logging
from collections.abc import Callable
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import first_line
from ..shapes import Tensor

# px in one direction after which compiling pays: compiling takes as long as was lost so far by not having compiled, so
# that even a run that ends right then takes at most twice as long as with foresight
COMPILE_AFTER_PX = {"cuda": 2**31}

logger = logging.getLogger(__name__)


def default_dtype(device: torch.device) -> torch.dtype:
    """What autoencoders compute in where nothing else is asked for: bfloat16 on CUDA, else float32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def running(network: Any, device: torch.device, dtype: torch.dtype, *, px_per_cell: int) -> Any:
    """A diffusers autoencoder as it runs on a device; the network itself stays as it was loaded, to be saved as it is.

    Args:
        network: in float32, on the CPU.
        device: to run on.
        dtype: of weights and activations.
        px_per_cell: px a side of a cell.

    Returns:
        The network itself on a CPU in float32. Otherwise a copy with channels last in memory, as half-precision
        convolutions want them, whose norms are one kernel each, and whose halves are compiled once that pays.
    """
    if (device.type, dtype) == ("cpu", torch.float32):
        return network
    copied = copy.deepcopy(network)
    _fuse_norms(copied)
    nn.Module.to(copied, device, dtype)  # diffusers' own warns of what may need float32, also where nothing does
    copied.to(memory_format=torch.channels_last)
    after = COMPILE_AFTER_PX.get(device.type)
    if after is not None:
        copied.encoder.forward = Compiled(copied.encoder.forward, after_positions=after)
        copied.decoder.forward = Compiled(copied.decoder.forward, after_positions=after // px_per_cell**2)
    return copied


class RMSNorm(nn.Module):
    """Diffusers' RMSNorm over the last dimension, in torch's one kernel instead of eight.

    Args:
        norm: whose weights it takes.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    @no_type_check  # else checks while tests run would have to be compiled, too
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


class Compiled:
    """Half an autoencoder, compiled for all sizes at once when it has been used enough.

    Sizes are symbols, so there is one compilation for several images of any size, one for a single image, and one for
    each way in which a side is a single cell or an image so small that DC-AE's attention takes its other form. Torch
    stops at 8 and runs further cases as they are; where it cannot compile at all, everything does.

    Args:
        forward: (batch, channels, height, width) → the same with other channels and sides.
        after_positions: batch·height·width of the inputs before it is compiled.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], *, after_positions: int) -> None:
        self._eager, self._left = forward, after_positions
        self._compiled: Callable[[Tensor], Tensor] | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run it."""
        if self._left >= 0:
            self._left -= inputs.numel() // inputs.shape[1]
            if self._left < 0:
                self._compiled = torch.compile(self._eager, dynamic=True)
        if self._compiled is None:
            return self._eager(inputs)
        for axis in (0, 2, 3):
            if inputs.shape[axis] > 1:
                # else two sides that are equal the first time would have to be equal ever after
                torch._dynamo.maybe_mark_dynamic(inputs, axis)
        try:
            return self._compiled(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many types
            logger.warning("the autoencoder runs uncompiled: %s", first_line(error))
            self._compiled = None
            return self._eager(inputs)
