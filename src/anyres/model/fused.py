"""`Elementwise` with Triton: each function is one kernel forward and one or two backward."""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from ..packing.pack import PackLayout
from ..shapes import Float, Tensor
from .elementwise import NORM_EPS, Elementwise, Heads, Tokens, Vectors
from .kernels import gelu, norms, rotation
from .kernels.pieces import Pieces, cut
from .rope import RotaryTables


class FusedElementwise(Elementwise):
    """The same functions in few passes over the tokens; equal to rounding.

    A linear map's bias is added by the kernel that follows its product, so that its gradient, a sum over tokens, is
    made where the product's gradient is.

    Args:
        layout: of the pack, on its device.
    """

    def __init__(self, layout: PackLayout) -> None:
        super().__init__(layout.image_index)
        self._pieces = cut(layout.cu_seqlens, layout.shape.tokens)

    def norm(self, x: Tokens, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        return _Norm.apply(x, shift, scale, self._pieces)

    def residual(self, x: Tokens, inner: Float[Tensor, "tokens inner"], linear: nn.Linear, gate: Vectors) -> Tokens:
        """See `Elementwise.residual`."""
        return _Residual.apply(x, F.linear(inner, linear.weight), linear.bias, gate, self._pieces)

    def residual_norm(
        self,
        x: Tokens,
        inner: Float[Tensor, "tokens inner"],
        linear: nn.Linear,
        gate: Vectors,
        shift: Vectors,
        scale: Vectors,
    ) -> tuple[Tokens, Tokens]:
        """See `Elementwise.residual_norm`."""
        product = F.linear(inner, linear.weight)
        return _ResidualNorm.apply(x, product, linear.bias, gate, shift, scale, self._pieces)

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.linear_gelu`."""
        if not torch.is_grad_enabled() and x.dtype == linear.weight.dtype and x.is_cuda:
            # cuBLAS adds the bias and applies the GELU while the product is still in registers
            return torch.ops.aten._addmm_activation.default(linear.bias, x, linear.weight.t(), use_gelu=True)
        return _BiasGelu.apply(F.linear(x, linear.weight), linear.bias)

    def heads(
        self, x: Tokens, linear: nn.Linear, q_norm: nn.Module, k_norm: nn.Module, rotary: RotaryTables
    ) -> tuple[Heads, Heads, Heads]:
        """See `Elementwise.heads`."""
        product = F.linear(x, linear.weight)
        affine = [] if isinstance(q_norm, nn.Identity) else [q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias]
        eps = getattr(q_norm, "eps", 0.0)
        return _Heads.apply(product, linear.bias, rotary.cos, rotary.sin, eps, *affine)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
        x, h = norms.forward(x, None, norms.Affine(shift, scale), pieces, NORM_EPS)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(x, shift, scale)
        ctx.pieces = pieces
        return x, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale = ctx.saved_tensors
        grads = norms.backward(d_x, d_h, x, None, norms.Affine(shift, scale), ctx.pieces, NORM_EPS)
        return grads.x, grads.shift, grads.scale, None


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, bias: Tensor, gate: Tensor, pieces: Pieces) -> Tensor:
        out, _ = norms.forward(x, norms.Branch(f, bias, gate), None, pieces, NORM_EPS)
        ctx.save_for_backward(f, bias, gate)
        ctx.pieces = pieces
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        f, bias, gate = ctx.saved_tensors
        grads = norms.backward(d_out, None, d_out, norms.Branch(f, bias, gate), None, ctx.pieces, NORM_EPS)
        return grads.x, grads.f, grads.bias, grads.gate, None


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, pieces: Pieces
    ) -> tuple[Tensor, Tensor]:
        branch, affine = norms.Branch(f, bias, gate), norms.Affine(shift, scale)
        out, h = norms.forward(x, branch, affine, pieces, NORM_EPS)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(out, *branch, *affine)
        ctx.pieces = pieces
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, f, bias, gate, shift, scale = ctx.saved_tensors
        branch, affine = norms.Branch(f, bias, gate), norms.Affine(shift, scale)
        grads = norms.backward(d_out, d_h, out, branch, affine, ctx.pieces, NORM_EPS)
        return grads.x, grads.f, grads.bias, grads.gate, grads.shift, grads.scale, None


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(product, bias)
        return gelu.forward(product, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor]:
        return gelu.backward(d_out, *ctx.saved_tensors)


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, product: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, eps: float, *affine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(product, bias, cos, sin, *affine)
        ctx.eps = eps
        dim = 2 * cos.shape[1]
        weights = rotation.Norms(*affine) if affine else None
        return rotation.forward(product, bias, weights, cos, sin, product.shape[1] // (3 * dim), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        product, bias, cos, sin, *affine = ctx.saved_tensors
        weights = rotation.Norms(*affine) if affine else None
        grads = rotation.backward(d_q, d_k, d_v, product, bias, weights, cos, sin, ctx.eps)
        of_norms = () if grads.norms is None else grads.norms.unbind(0)
        return grads.product, grads.bias, None, None, None, *of_norms
