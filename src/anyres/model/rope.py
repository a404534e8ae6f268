"""Axial rotary embedding, and the modes that stretch it to grids larger than those of training.

The first half of a head's dimensions rotates with the row, the second half with the column. In each half, of
d = head_dim / 2 dimensions, neighbouring pairs (2i, 2i+1) rotate by position · 10000^(−2i/d).
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch

from ..config import require
from ..packing.pack import PackLayout
from ..shapes import Float, Int, Tensor
from .config import PositionOrder

THETA = 10000.0

RotaryMode = Literal[
    "normal",
    "linear",
    "ntk-aware",
    "ntk-aware-pro1",
    "ntk-aware-pro2",
    "scale1",
    "scale2",
    "yarn",
    "ntk-by-parts",
]


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How positions of a grid larger than the training's are mapped to angles (docs/method.md).

    Attributes:
        mode: the released code's name of the rule.
        trained_side: L, the longest side in tokens that training has seen.
        decoupled: scale each axis by its own ratio to L, instead of both by the longer side's.
    """

    mode: RotaryMode = "normal"
    trained_side: int
    decoupled: bool = False

    def __post_init__(self) -> None:
        require(self.trained_side >= 2, f"trained_side = {self.trained_side}", "at least 2 tokens")
        require(self.mode in RotaryMode.__args__, f"mode = {self.mode!r}", f"one of {', '.join(RotaryMode.__args__)}")


@dataclass(frozen=True, eq=False)
class RotaryTables:
    """Cosines and sines of a pack's tokens, always float32; one value a rotated pair, rows' axis first."""

    cos: Float[Tensor, "tokens pairs"]
    sin: Float[Tensor, "tokens pairs"]

    @functools.cached_property
    def turns(self) -> Tensor:
        """Cos + i·sin, (tokens, pairs)."""
        return torch.complex(self.cos, self.sin)


def rotary_tables(
    layout: PackLayout, head_dim: int, order: PositionOrder, scaling: RotaryScaling | None = None
) -> RotaryTables:
    """The tables of a pack, on its device; computed once a pack, outside the blocks.

    Args:
        layout: the pack.
        head_dim: channels of an attention head, a multiple of 4.
        order: how a token's place is read; see `NiTConfig.position_order`.
        scaling: extrapolation, or None for the plain rotation.
    """
    positions = _ordered(layout, order).to(torch.float32)
    frequencies = _frequencies(head_dim // 2, layout.extents, scaling)
    angles = positions[:, :, None] * frequencies[layout.image_index]
    magnitude = _magnitude(layout.extents, scaling)[layout.image_index, None]
    angles = angles.flatten(1)  # (tokens, axes, pairs) → rows' pairs, then columns' pairs
    return RotaryTables(angles.cos() * magnitude, angles.sin() * magnitude)


def rotate(x: Float[Tensor, "tokens heads dim"], tables: RotaryTables) -> Float[Tensor, "tokens heads dim"]:
    """Rotate each pair (a, b) to (a·cos − b·sin, a·sin + b·cos), in float32 or better; the dtype of x is kept."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = exact.unflatten(-1, (-1, 2))  # neighbouring channels
    if x.is_cpu:  # one pass, a tenth of the time there; not every device has complex numbers
        turned = torch.view_as_complex(pairs) * tables.turns[:, None]
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)
    a, b = pairs.unbind(-1)
    cos, sin = tables.cos[:, None], tables.sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)


def _ordered(layout: PackLayout, order: PositionOrder) -> Int[Tensor, "tokens 2"]:
    if order == "row_major":
        return layout.positions
    height, width = layout.extents[layout.image_index].unbind(1)
    row, column = layout.positions.unbind(1)
    number = row * width + column
    # the released grid is built column by column, though tokens run row by row
    return torch.stack([number % height, number // height], dim=1)


def _frequencies(
    d: int, extents: Int[Tensor, "images axes"], scaling: RotaryScaling | None
) -> Float[Tensor, "images axes pairs"]:
    """f_i for each image and axis, in float32."""
    exponents = torch.arange(0, d, 2, device=extents.device, dtype=torch.float32) / d  # 2i/d
    plain = (1.0 / THETA**exponents).expand(*extents.shape, -1)
    if scaling is None or scaling.mode in ("normal", "scale1", "scale2"):
        return plain
    length = scaling.trained_side
    stretched = extents.to(torch.float32)
    if not scaling.decoupled:
        stretched = stretched.amax(dim=1, keepdim=True).expand_as(stretched)
    s = (stretched / length).clamp(min=1.0)[:, :, None]
    linear = plain / s
    if scaling.mode == "linear":
        return linear
    ntk = 1.0 / (THETA * s ** (d / (d - 2))) ** exponents
    if scaling.mode.startswith("ntk-aware"):
        return ntk
    if scaling.mode == "yarn":
        return torch.lerp(linear, plain, _ramp(32, 1, d, length, extents.device))
    by_parts = torch.lerp(linear, ntk, _ramp(1.25, 0.75, d, length, extents.device))
    return torch.lerp(by_parts, plain, _ramp(16, 2, d, length, extents.device))


def _ramp(a: float, b: float, d: int, length: int, device: torch.device) -> Float[Tensor, "pairs"]:
    """M(a, b)_i of docs/method.md: 1 for pairs that turn more than `a` times over the training length, 0 below `b`."""

    def pair(turns: float) -> float:
        return d * math.log(length / (2 * math.pi * turns)) / (2 * math.log(THETA))

    # the bounds are in units of d though i runs to d/2: the released code's, kept under its names
    low, high = max(math.floor(pair(a)), 0), float(min(math.ceil(pair(b)), d - 1))
    if low == high:
        high += 0.001
    i = torch.arange(d // 2, device=device, dtype=torch.float32)
    return 1 - ((i - low) / (high - low)).clamp(0, 1)


def _magnitude(extents: Int[Tensor, "images axes"], scaling: RotaryScaling | None) -> Float[Tensor, "images"]:
    """The constant m, which multiplies cosines and sines."""
    longest, area = extents.amax(dim=1).to(torch.float32), extents.prod(dim=1).to(torch.float32)
    if scaling is None:
        return torch.ones_like(longest)
    length = scaling.trained_side
    if scaling.mode == "yarn":
        return 1 + 0.1 * (longest / length).clamp(min=1).log()
    # the factor 2 in both is the released code's
    if scaling.mode in ("ntk-aware-pro1", "scale1"):
        return ((2 * longest).clamp(min=length).log() / math.log(length)).sqrt()
    if scaling.mode in ("ntk-aware-pro2", "scale2"):
        return ((2 * area).clamp(min=length**2).log() / math.log(length**2)).sqrt()
    return torch.ones_like(longest)
