"""`FusedElementwise` where the blocks' products are of 8-bit numbers (`float8.py`).

What a product reads in 8 bits is written by the kernel that makes it, in the pass that it takes anyway: the norms and
the GELU, forward and backward. Only what attention gives and the gradient of what it takes need a pass of their own.
"""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..packing.pack import PackLayout
from ..shapes import Float, Tensor
from .elementwise import NORM_EPS, Branch, Tokens, Vectors
from .float8 import Float8Weights, Map
from .fused import FusedElementwise
from .kernels import float8, norms
from .kernels.pieces import Pieces
from .rows import Rows, product, product_over_rows


class Float8Elementwise(FusedElementwise):
    """The same functions with products in 8 bits. What norms and GELU give is there in 8 bits alone.

    Args:
        layout: of the pack, on its device.
        weights: of the network's blocks.
    """

    def __init__(self, layout: PackLayout, weights: Float8Weights) -> None:
        super().__init__(layout)
        self._weights, self._made = weights, _Made()

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.linear_gelu`."""
        inner = Rows.empty((len(x), linear.out_features), x.device)
        out = _LinearGelu.apply(x, linear.weight, linear.bias, self._weights[linear], self._made, inner)
        return self._made.remember(out, inner)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        if branch is None:
            return super().norm(x, branch, shift, scale)
        rows, f = Rows.empty(x.shape, x.device), self._product(branch.inner, branch.linear)
        addend = f, branch.linear.bias, branch.gate
        x, h = _AddNorm.apply(x, *addend, shift, scale, self._pieces, self._made, rows)
        return x, self._made.remember(h, rows)

    def last_norm(self, x: Tokens, branch: Branch, shift: Vectors, scale: Vectors) -> Tokens:
        """See `Elementwise.last_norm`."""
        return super().norm(x, branch, shift, scale)[1]

    def _product(self, x: Tensor, linear: nn.Linear, bias: Tensor | None = None) -> Tensor:
        return _Product.apply(x, linear.weight, bias, self._weights[linear], self._made)


class _Made:
    """The 8-bit form of the last tensor that has one: what comes next reads it."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Rows] | None = None

    def remember(self, x: Tensor, rows: Rows) -> Tensor:
        """`x`, which `rows` are of."""
        self._last = x, rows
        return x

    def rows_of(self, x: Tensor) -> Rows:
        """X in 8 bits, as it was made, or made now."""
        if self._last is not None and self._last[0] is x:
            return self._last[1]
        return float8.rows_of(x)


class _Product(torch.autograd.Function):
    """X·weightᵀ (+ bias, without its gradient)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, of_map: Map, made: _Made) -> Tensor:
        rows = made.rows_of(x)
        ctx.save_for_backward(weight, *rows)
        ctx.dtype, ctx.of_map, ctx.made = x.dtype, of_map, made
        return product(rows, of_map.rows, x.dtype, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, *rows = ctx.saved_tensors
        d_x, d_weight = _gradients(ctx.made.rows_of(d_out), Rows(*rows), weight, ctx.of_map, ctx.dtype)
        return d_x, d_weight, None, None, None


def _stand_in(like: Tensor) -> Tensor:
    """For a tensor that is there in 8 bits alone: it has no memory, and is not a number if it is read after all."""
    return like.new_full((), math.nan).expand(like.shape)


def _gradients(d_out: Rows, x: Rows, weight: Tensor, of_map: Map, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of a product's input and weight, from its own."""
    assert of_map.columns is not None, "weights for training"  # noqa: S101
    d_weight = product_over_rows(float8.columns_of(d_out), float8.columns_of(x), dtype)
    return product(d_out, of_map.columns, dtype), d_weight.to(weight.dtype)


class _LinearGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, of_map: Map, made: _Made, inner: Rows) -> Tensor:
        rows = made.rows_of(x)
        before = product(rows, of_map.rows, x.dtype)
        float8.gelu_forward(before, bias, inner)
        ctx.save_for_backward(weight, bias, before, *rows)
        ctx.of_map = of_map
        return _stand_in(before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, before, *rows = ctx.saved_tensors
        d_before, d_bias = float8.gelu_backward(d_out, before, bias)
        return *_gradients(d_before, Rows(*rows), weight, ctx.of_map, before.dtype), d_bias, None, None, None


class _AddNorm(torch.autograd.Function):
    """As in `fused.py`, with the normalised tokens and the product's gradient in 8 bits."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        f: Tensor,
        bias: Tensor,
        gate: Tensor,
        shift: Tensor,
        scale: Tensor,
        pieces: Pieces,
        made: _Made,
        rows: Rows,
    ) -> tuple[Tensor, Tensor]:
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        out, _ = norms.forward(x, addend, affine, pieces, NORM_EPS, rows)
        ctx.save_for_backward(out, *addend, *affine)
        ctx.pieces, ctx.made = pieces, made
        return out, _stand_in(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, f, bias, gate, shift, scale = ctx.saved_tensors
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        rows = Rows.empty(f.shape, f.device)
        grads = norms.backward(d_out, d_h, out, addend, affine, ctx.pieces, NORM_EPS, rows)
        assert grads.f is not None  # noqa: S101 - there is an addend
        d_f = ctx.made.remember(grads.f, rows)
        return grads.x, d_f, grads.bias, grads.gate, grads.shift, grads.scale, None, None, None
