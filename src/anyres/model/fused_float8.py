"""`FusedElementwise` where the blocks' products are of 8-bit numbers (`float8.py`).

What a product reads in 8 bits is written by the kernel that makes it, in the pass that it makes anyway: the norms and
the GELU forward, their backward for the gradients. Only what attention gives and its gradient take a pass of their own.
"""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..packing.pack import PackLayout
from ..shapes import Float, Tensor
from .elementwise import NORM_EPS, Branch, Heads, Tokens, Vectors
from .float8 import Float8Weights, Map, Rows, product
from .fused import FusedElementwise
from .kernels import float8, norms, rotation
from .kernels.pieces import Pieces
from .rope import RotaryTables


class Float8Elementwise(FusedElementwise):
    """The same functions with products in 8 bits.

    What a function gives for the next product is a tensor as ever, whose 8-bit form is remembered here until something
    else is made; without gradients it is that form, and nothing writes 16 bits of it.

    Args:
        layout: of the pack, on its device.
        weights: of the network's blocks.
    """

    def __init__(self, layout: PackLayout, weights: Float8Weights) -> None:
        super().__init__(layout)
        self._weights = weights
        self._made: tuple[Tensor, Rows] | None = None

    def add(self, x: Tokens, branch: Branch) -> Tokens:
        """See `Elementwise.add`."""
        if torch.is_grad_enabled():
            return super().add(x, branch)  # once a pass, where training aligns with a teacher
        return norms.forward(x, self._addend(x, branch), None, self._pieces, NORM_EPS)[0]

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        if branch is None:
            return super().norm(x, branch, shift, scale)
        made = Rows.empty(*x.shape, x.device)
        if torch.is_grad_enabled():
            x, h = self._add_norm(x, branch, shift, scale, made)
        else:
            affine = norms.Affine(shift, scale)
            x, _ = norms.forward(x, self._addend(x, branch), affine, self._pieces, NORM_EPS, made, keep=False)
            h = made.values
        self._made = h, made
        return x, h

    def last_norm(self, x: Tokens, branch: Branch, shift: Vectors, scale: Vectors) -> Tokens:
        """See `Elementwise.last_norm`."""
        return self._add_norm(x, branch, shift, scale, None)[1]

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.linear_gelu`."""
        rows, of_map = self._rows(x), self._weights[linear]
        made = Rows.empty(len(x), linear.out_features, x.device)
        if torch.is_grad_enabled():
            out = _LinearGelu.apply(x, linear.weight, linear.bias, rows, of_map, made)
        else:
            float8.gelu_forward(product(rows, of_map.rows, _dtype(x, linear)), linear.bias, made, keep=False)
            out = made.values
        self._made = out, made
        return out

    def heads(
        self, x: Tokens, linear: nn.Linear, q_norm: nn.Module, k_norm: nn.Module, rotary: RotaryTables
    ) -> tuple[Heads, Heads, Heads]:
        """See `Elementwise.heads`."""
        affine = [] if isinstance(q_norm, nn.Identity) else [q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias]
        eps = getattr(q_norm, "eps", 0.0)
        rows, of_map = self._rows(x), self._weights[linear]
        of_product = rows, of_map, _dtype(x, linear)
        return _Heads.apply(x, linear.weight, linear.bias, *of_product, rotary.cos, rotary.sin, eps, *affine)

    def _rows(self, x: Tensor) -> Rows:
        """X in 8 bits, as it was made, or made now."""
        if self._made is not None and self._made[0] is x:
            return self._made[1]
        return float8.rows_of(x.detach())

    def _addend(self, x: Tensor, branch: Branch) -> norms.Addend:
        f = product(self._rows(branch.inner), self._weights[branch.linear].rows, x.dtype)
        return norms.Addend(f, branch.linear.bias, branch.gate)

    def _add_norm(
        self, x: Tensor, branch: Branch, shift: Tensor, scale: Tensor, made: Rows | None
    ) -> tuple[Tensor, Tensor]:
        inner, linear = branch.inner, branch.linear
        products = self._rows(inner), self._weights[linear], made
        return _AddNorm.apply(x, inner, linear.weight, linear.bias, branch.gate, shift, scale, *products, self._pieces)


def _dtype(x: Tensor, linear: nn.Linear) -> torch.dtype:
    """Of a product: that of its input, or of the weights where the input is in 8 bits alone."""
    return linear.weight.dtype if x.dtype == torch.float8_e4m3fn else x.dtype


def _gradients(d: Tensor, rows: Rows, inner: Tensor, weight: Tensor, of_map: Map) -> tuple[Tensor, Tensor]:
    """Of a product's input and of its weight, the one in 8 bits, the other in 16; `d` and `rows` are the product's."""
    assert of_map.columns is not None, "weights for training"  # noqa: S101
    return product(rows, of_map.columns, inner.dtype), (d.t() @ inner).to(weight.dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        inner: Tensor,
        weight: Tensor,
        bias: Tensor,
        gate: Tensor,
        shift: Tensor,
        scale: Tensor,
        rows: Rows,
        of_map: Map,
        made: Rows | None,
        pieces: Pieces,
    ) -> tuple[Tensor, Tensor]:
        f = product(rows, of_map.rows, x.dtype)
        affine = norms.Affine(shift, scale)
        out, h = norms.forward(x, norms.Addend(f, bias, gate), affine, pieces, NORM_EPS, made)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(out, f, inner, weight, bias, gate, shift, scale)
        ctx.of_map, ctx.pieces = of_map, pieces
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, f, inner, weight, bias, gate, shift, scale = ctx.saved_tensors
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        rows = Rows.empty(*f.shape, f.device)
        grads = norms.backward(d_out, d_h, out, addend, affine, ctx.pieces, NORM_EPS, rows)
        assert grads.f is not None  # noqa: S101 - there is an addend
        d_inner, d_weight = _gradients(grads.f, rows, inner, weight, ctx.of_map)
        return grads.x, d_inner, d_weight, grads.bias, grads.gate, grads.shift, grads.scale, None, None, None, None


class _LinearGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rows: Rows, of_map: Map, made: Rows) -> Tensor:
        of_product = product(rows, of_map.rows, x.dtype)
        ctx.save_for_backward(x, weight, bias, of_product)
        ctx.of_map = of_map
        out = float8.gelu_forward(of_product, bias, made)
        assert out is not None  # noqa: S101 - it is kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, of_product = ctx.saved_tensors
        d_product, rows, d_bias = float8.gelu_backward(d_out, of_product, bias)
        return *_gradients(d_product, rows, x, weight, ctx.of_map), d_bias, None, None, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Rows,
        of_map: Map,
        dtype: torch.dtype,
        cos: Tensor,
        sin: Tensor,
        eps: float,
        *affine: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_product = product(rows, of_map.rows, dtype, bias)
        ctx.save_for_backward(x, weight, of_product, cos, sin, *affine)
        ctx.of_map, ctx.eps = of_map, eps
        weights = rotation.Norms(*affine) if affine else None
        return rotation.forward(of_product, weights, cos, sin, of_product.shape[1] // (6 * cos.shape[1]), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, of_product, cos, sin, *affine = ctx.saved_tensors
        weights = rotation.Norms(*affine) if affine else None
        grads = rotation.backward(d_q, d_k, d_v, of_product, weights, cos, sin, ctx.eps)
        of_norms = () if grads.norms is None else grads.norms.unbind(0)
        d_x, d_weight = _gradients(grads.product, float8.rows_of(grads.product), x, weight, ctx.of_map)
        return d_x, d_weight, grads.bias, None, None, None, None, None, None, *of_norms
