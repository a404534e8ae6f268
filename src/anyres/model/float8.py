"""The weights of a network's blocks in 8 bits (`rows.py`), and which devices multiply such numbers.

The blocks' linear maps are computed in 8 bits, forward and backward; what is outside the blocks, and the maps of the
modulation, are not.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import nn

from ..errors import BackendError, ConfigError
from ..shapes import Tensor
from .elementwise import pick_kernels
from .rows import MULTIPLE, Rows

CAPABILITY = (8, 9)  # of CUDA devices that have such products


class Map(NamedTuple):
    """A linear map's weight in 8 bits.

    Attributes:
        rows: (out, in), for the forward product.
        columns: (in, out), for the gradient of its input; None where only inference is meant.
    """

    rows: Rows
    columns: Rows | None


class Float8Weights:
    """The weights of a network's blocks in 8 bits, one scale a weight.

    Args:
        blocks: of the network, where they stay.
        training: also for gradients.

    Raises:
        BackendError: the device has no such products.
        ConfigError: a width is not a multiple of 16.
    """

    def __init__(self, blocks: nn.ModuleList, *, training: bool) -> None:
        linears = linears_of(blocks)
        check_device(linears[0].weight.device)
        _check_widths(linears)
        self._maps: Mapping[nn.Linear, Map] = {each: _empty(each.weight, training=training) for each in linears}
        self.refresh()

    def __getitem__(self, linear: nn.Linear) -> Map:
        """The map's weight as it was at the last `refresh`."""
        return self._maps[linear]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights, which have changed; never waits for the device."""
        from .kernels import float8  # Triton is imported only where it is used

        weights = [linear.weight for linear in self._maps]
        # the greatest absolute value is the norm of infinite order
        greatest = torch._foreach_norm(weights, float("inf"))  # pyright: ignore[reportPrivateImportUsage]
        for weight, peak, (rows, columns) in zip(weights, greatest, self._maps.values(), strict=True):
            float8.write_weight(weight, peak, rows, columns)


def linears_of(blocks: nn.ModuleList) -> list[nn.Linear]:
    """The linear maps of a network's blocks that are computed in 8 bits."""
    names = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    return [cast(nn.Linear, block.get_submodule(name)) for block in blocks for name in names]


def _empty(weight: Tensor, *, training: bool) -> Map:
    rows = Rows.empty(weight.shape, weight.device)
    return Map(rows, Rows.empty(weight.shape[::-1], weight.device) if training else None)


def check_device(device: torch.device) -> None:
    """Refuse a device without products of 8-bit numbers.

    Raises:
        BackendError: it is one, or Triton is not there.
    """
    try:
        pick_kernels("triton", device)
    except BackendError as error:
        raise BackendError(f"float8: {error.got}", wanted=error.wanted, fix="use bfloat16") from error
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise BackendError(
            f"float8 on {torch.cuda.get_device_name(device)}, whose matrix units do not multiply 8-bit numbers",
            wanted="compute capability 8.9 or more, as Ada, Hopper and later ones have",
            fix="use bfloat16",
        )


def _check_widths(linears: list[nn.Linear]) -> None:
    for linear in linears:
        if any(width % MULTIPLE for width in linear.weight.shape):
            raise ConfigError(
                f"float8 with a linear map of {linear.in_features} → {linear.out_features} values",
                wanted=f"multiples of {MULTIPLE}",
                fix="use bfloat16, or another width",
            )
