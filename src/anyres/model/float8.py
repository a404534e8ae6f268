"""Matrix products of 8-bit numbers (e4m3), of which every row has a scale of its own.

A row times its scale is what it stands for; its greatest value is 448, the format's. Scales are of the values at hand,
so there is nothing to remember from step to step, and a row that is not finite stays so: its scale is not.

The blocks' linear maps are computed this way, forward and for the gradient of their inputs; the gradient of their
weights, a sum over tokens that each have another scale, is not, and neither is anything outside the blocks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import BackendError, ConfigError
from ..shapes import Float, Tensor
from .elementwise import pick_kernels

MULTIPLE = 16  # of the widths of products in 8 bits
CAPABILITY = (8, 9)  # of CUDA devices that have such products


class Rows(NamedTuple):
    """A matrix in 8 bits.

    Attributes:
        values: torch.float8_e4m3fn.
        scales: float32.
    """

    values: Float[Tensor, "rows width"]
    scales: Float[Tensor, "rows 1"]

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device) -> "Rows":
        """Memory for a kernel to write."""
        values = torch.empty(shape, device=device, dtype=torch.float8_e4m3fn)
        return cls(values, torch.empty(shape[0], 1, device=device))

    def exact(self) -> Float[Tensor, "rows width"]:
        """What it stands for, in float32."""
        return self.values.float() * self.scales


class Columns(NamedTuple):
    """A matrix in 8 bits, transposed, with one scale.

    Attributes:
        values: torch.float8_e4m3fn; rows are padded with zeros to a multiple of 16.
        scale: float32.
    """

    values: Float[Tensor, "width rows"]
    scale: Float[Tensor, ""]


def product_over_rows(a: Columns, b: Columns, dtype: torch.dtype) -> Float[Tensor, "a b"]:
    """AᵀB of the matrices that `a` and `b` are of: a sum over their rows."""
    whole = F.ScalingType.TensorWise
    return F.scaled_mm(a.values, b.values.t(), a.scale, whole, b.scale, whole, output_dtype=dtype)


def product(
    a: Rows, b: Rows, dtype: torch.dtype, bias: Float[Tensor, "columns"] | None = None
) -> Float[Tensor, "rows columns"]:
    """A·bᵀ (+ bias)."""
    by_row = F.ScalingType.RowWise
    return F.scaled_mm(
        a.values, b.values.t(), a.scales, by_row, b.scales.t(), by_row,
        bias=None if bias is None else bias.to(dtype), output_dtype=dtype,
    )  # fmt: skip


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
        linears = [
            cast(nn.Linear, block.get_submodule(name))
            for block in blocks
            for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
        ]
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


def _empty(weight: Tensor, *, training: bool) -> Map:
    rows = Rows.empty(weight.shape, weight.device)
    return Map(rows, Rows.empty(weight.shape[::-1], weight.device) if training else None)


def check_device(device: torch.device) -> None:
    """Refuse a device without products of 8-bit numbers.

    Raises:
        BackendError: it is one, or Triton is not there.
    """
    pick_kernels("triton", device)
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
