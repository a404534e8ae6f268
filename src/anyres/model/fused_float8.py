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
from ..shapes import Tensor
from .attention import AttentionPlan, Tiled
from .elementwise import NORM_EPS, Branch, QkvProjection, Tokens, Vectors
from .float8 import Float8Weights, Map
from .fused import Attended, FusedElementwise
from .kernels import attention, float8, norms, rotation, sums
from .kernels.pieces import Pieces
from .rows import Rows, product, product_over_rows


class Float8Elementwise(FusedElementwise):
    """The same functions with products in 8 bits.

    Args:
        layout: of the pack, on its device.
        weights: of the network's blocks.
    """

    def __init__(self, layout: PackLayout, weights: Float8Weights) -> None:
        super().__init__(layout)
        self._weights, self._made = weights, _Made()

    def mlp(self, x: Tokens, up: nn.Linear, down: nn.Linear, gate: Vectors) -> Branch:
        """See `Elementwise.mlp`."""
        maps = self._weights[up], self._weights[down]
        return Branch(_Mlp.apply(x, up.weight, up.bias, down.weight, *maps, self._made), down.bias.clone(), gate)

    def attended(self, x: Tokens, projection: QkvProjection, plan: AttentionPlan) -> Tokens:
        """See `Elementwise.attended`."""
        if isinstance(plan, Tiled) and torch.is_grad_enabled():
            return _Attended.apply(self._made, plan.tiles, *self._projected(x, projection)).flatten(1)
        return super().attended(x, projection, plan)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`; the normalised tokens are there in 8 bits alone."""
        if branch is None:
            return super().norm(x, branch, shift, scale)
        rows = Rows.empty(x.shape, x.device)
        x, h = _AddNorm.apply(x, *branch, shift, scale, self.image_index, self._pieces, self._made, rows)
        return x, self._made.remember(h, rows)

    def last_norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> Tokens:
        """See `Elementwise.last_norm`."""
        return super().norm(x, branch, shift, scale)[1]

    def _product(self, x: Tensor, linear: nn.Linear, bias: Tensor | None = None) -> Tensor:
        return _Product.apply(x, linear.weight, bias, self._weights[linear], self._made)


class _Made:
    """The 8-bit form of the last tensor that has one: what comes next reads it."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Rows] | None = None
        self._nowhere: Tensor | None = None

    def remember(self, x: Tensor, rows: Rows) -> Tensor:
        """`x`, which `rows` are of."""
        self._last = x, rows
        return x

    def stand_in(self, like: Tensor) -> Tensor:
        """What stands for a tensor that is there in 8 bits alone: not a number, if it were read; without memory."""
        if self._nowhere is None or self._nowhere.dtype != like.dtype:
            self._nowhere = like.new_full((), math.nan)
        return self._nowhere.expand(like.shape)

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
        return product(rows, of_map.rows, x.dtype, bias, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        weight, *rows = ctx.saved_tensors
        d_x, d_weight = _gradients(ctx.made.rows_of(d_out), Rows(*rows), weight, ctx.of_map, ctx.dtype)
        return d_x, d_weight, None, None, None


def _gradients(d_out: Rows, x: Rows, weight: Tensor, of_map: Map, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of a product's input and weight, from its own."""
    assert of_map.columns is not None, "weights for training"  # noqa: S101
    d_weight = product_over_rows(*float8.columns_of(d_out, x), dtype)
    return product(d_out, of_map.columns, dtype), d_weight.to(weight.dtype)


class _Mlp(torch.autograd.Function):
    """down(gelu(up(x))) without down's bias; between the two maps all is in 8 bits but what comes out of a product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, up_map: Map, down_map: Map, made: _Made
    ) -> Tensor:
        rows = made.rows_of(x)
        before = product(rows, up_map.rows, x.dtype, fast=True)
        inner = float8.gelu_forward(before, up_bias)
        ctx.save_for_backward(up, up_bias, down, before, *rows, *inner)
        ctx.maps, ctx.made = (up_map, down_map), made
        return product(inner, down_map.rows, x.dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        up, up_bias, down, before, *rows = ctx.saved_tensors
        (up_map, down_map), dtype = ctx.maps, before.dtype
        d_inner, d_down = _gradients(ctx.made.rows_of(d_out), Rows(*rows[2:]), down, down_map, dtype)
        d_before, d_up_bias = float8.gelu_backward(d_inner, before, up_bias)
        d_x, d_up = _gradients(d_before, Rows(*rows[:2]), up, up_map, dtype)
        return d_x, d_up, d_up_bias, d_down, None, None, None


class _Attended(Attended):
    """As in `fused.py`, with the gradient of queries, keys and values in 8 bits alone."""

    @staticmethod
    def forward(ctx: Any, made: _Made, *given: Any) -> Tensor:
        ctx.made = made
        return Attended.forward(ctx, *given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        product, cos, sin, q, k, out, lse, *affine = ctx.saved_tensors
        v, d_v = product.view(len(product), 3, *q.shape[1:])[:, 2], torch.empty_like(q)
        grads = attention.backward(d_out, q, k, v, out, lse, ctx.tiles, d_v)
        weights = rotation.Norms(*affine) if affine else None
        d_bias = product.new_empty(product.shape[1], dtype=ctx.of_bias)
        sums.over_rows(grads.sum_v, d_bias[-d_v[0].numel() :])
        rows, d_norms = rotation.backward_rows(grads.q, grads.k, d_v, product, weights, cos, sin, ctx.eps, d_bias)
        d_product = ctx.made.remember(ctx.made.stand_in(product), rows)
        return None, None, d_product, d_bias, None, None, None, *(() if d_norms is None else d_norms.unbind(0))


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
        image_index: Tensor,
        pieces: Pieces,
        made: _Made,
        rows: Rows,
    ) -> tuple[Tensor, Tensor]:
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        out, _ = norms.forward(x, addend, affine, image_index, NORM_EPS, rows)
        ctx.save_for_backward(out, *addend, *affine)
        ctx.pieces, ctx.made = pieces, made
        return out, made.stand_in(x)

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
