"""Matrices of 8-bit numbers (e4m3), of which every row has a scale of its own, and their products.

A row times its scale is what it stands for. Scales are made from the values at hand, so there is nothing to remember
from step to step; they are powers of two, which lose nothing; and that of a row that is not finite is infinite, so that
what comes of it is not finite either.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..shapes import Float, Tensor

MULTIPLE = 16  # of the widths of products in 8 bits


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

    @classmethod
    def empty(cls, rows: int, width: int, scale: Float[Tensor, ""]) -> "Columns":
        """Memory for a kernel to write."""
        padded = -(-rows // MULTIPLE) * MULTIPLE
        return cls(torch.empty(width, padded, device=scale.device, dtype=torch.float8_e4m3fn), scale)


def product(
    a: Rows, b: Rows, dtype: torch.dtype, bias: Float[Tensor, "columns"] | None = None, *, fast: bool = False
) -> Float[Tensor, "rows columns"]:
    """A·bᵀ (+ bias); `fast` adds up in the matrix units alone, which on Hopper keep fewer bits than float32."""
    by_row = F.ScalingType.RowWise
    return F.scaled_mm(
        a.values, b.values.t(), a.scales, by_row, b.scales.t(), by_row,
        bias=None if bias is None else bias.to(dtype), output_dtype=dtype, use_fast_accum=fast,
    )  # fmt: skip


def product_over_rows(a: Columns, b: Columns, dtype: torch.dtype) -> Float[Tensor, "a b"]:
    """AᵀB of the matrices that `a` and `b` are of: a sum over their rows."""
    whole = F.ScalingType.TensorWise
    return F.scaled_mm(a.values, b.values.t(), a.scale, whole, b.scale, whole, output_dtype=dtype)
