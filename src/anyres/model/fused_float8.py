"""`FusedElementwise` where the blocks' products are of 8-bit numbers (`float8.py`).

What a product reads in 8 bits is written by the kernel that makes it, in the pass that it takes anyway: the norms and
the GELU, forward and backward. Only what attention gives and the gradient of what it takes need a pass of their own.
"""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

import os
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..packing.pack import PackLayout
from ..shapes import Float, Tensor
from .elementwise import NORM_EPS, Branch, Tokens, Vectors
from .float8 import Float8Weights, Map, Rows, product, product_over_rows
from .fused import FusedElementwise
from .kernels import float8, norms
from .kernels.pieces import Pieces


EIGHT_BIT_GRADIENTS = bool(os.environ.get("EIGHT"))


class Float8Elementwise(FusedElementwise):
    """The same functions with products in 8 bits.

    Without gradients, what a norm or the GELU gives is in 8 bits alone: only a product reads it.

    Args:
        layout: of the pack, on its device.
        weights: of the network's blocks.
    """

    def __init__(self, layout: PackLayout, weights: Float8Weights) -> None:
        super().__init__(layout)
        self._weights, self._made = weights, _Made()

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        if branch is None:
            return super().norm(x, branch, shift, scale)
        rows, keep = Rows.empty(x.shape, x.device), torch.is_grad_enabled()
        f, bias, gate = self._product(branch.inner, branch.linear), branch.linear.bias, branch.gate
        x, h = _AddNorm.apply(x, f, bias, gate, shift, scale, self._pieces, self._made, rows, keep)
        return x, self._made.remember(h, rows)

    def last_norm(self, x: Tokens, branch: Branch, shift: Vectors, scale: Vectors) -> Tokens:
        """See `Elementwise.last_norm`."""
        return super().norm(x, branch, shift, scale)[1]

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.linear_gelu`."""
        rows, keep = Rows.empty((len(x), linear.out_features), x.device), torch.is_grad_enabled()
        out = _BiasGelu.apply(self._product(x, linear), linear.bias, self._made, rows, keep)
        return self._made.remember(out, rows)

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
        ctx.of_map, ctx.made = of_map, made
        rows = made.rows_of(x)
        ctx.save_for_backward(x, weight, *rows)
        # without gradients there may be no x but in 8 bits
        dtype = weight.dtype if x.dtype == torch.float8_e4m3fn else x.dtype
        return product(rows, of_map.rows, dtype, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rows = ctx.saved_tensors
        assert ctx.of_map.columns is not None, "weights for training"  # noqa: S101
        d_rows = ctx.made.rows_of(d_out)
        d_x = product(d_rows, ctx.of_map.columns, x.dtype)
        if EIGHT_BIT_GRADIENTS:
            d_weight = product_over_rows(float8.columns_of(d_rows), float8.columns_of(Rows(*rows)), x.dtype)
            return d_x, d_weight.to(weight.dtype), None, None, None
        # a sum over tokens, each of which has another scale
        return d_x, (d_out.t() @ x).to(weight.dtype), None, None, None


class _AddNorm(torch.autograd.Function):
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
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        out, h = norms.forward(x, addend, affine, pieces, NORM_EPS, rows, keep=keep)
        ctx.save_for_backward(out, *addend, *affine)
        ctx.pieces, ctx.made = pieces, made
        return out, rows.values if h is None else h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, f, bias, gate, shift, scale = ctx.saved_tensors
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        rows = Rows.empty(f.shape, f.device)
        grads = norms.backward(d_out, d_h, out, addend, affine, ctx.pieces, NORM_EPS, rows)
        assert grads.f is not None  # noqa: S101 - there is an addend
        d_f = ctx.made.remember(grads.f, rows)
        return grads.x, d_f, grads.bias, grads.gate, grads.shift, grads.scale, None, None, None, None


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_product: Tensor, bias: Tensor, made: _Made, rows: Rows, keep: bool) -> Tensor:
        ctx.save_for_backward(of_product, bias)
        ctx.made = made
        out = float8.gelu_forward(of_product, bias, rows, keep=keep)
        return rows.values if out is None else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        d_product, rows, d_bias = float8.gelu_backward(d_out, *ctx.saved_tensors)
        return ctx.made.remember(d_product, rows), d_bias, None, None, None
