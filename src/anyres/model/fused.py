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
from .elementwise import NORM_EPS, Branch, Elementwise, Heads, Tokens, Vectors
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

    def add(self, x: Tokens, branch: Branch) -> Tokens:
        """See `Elementwise.add`."""
        return _Add.apply(x, self._product(branch.inner, branch.linear), branch.linear.bias, branch.gate, self._pieces)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        if branch is None:
            return _Norm.apply(x, shift, scale, self._pieces)
        f = self._product(branch.inner, branch.linear)
        return _AddNorm.apply(x, f, branch.linear.bias, branch.gate, shift, scale, self._pieces)

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.linear_gelu`."""
        if not torch.is_grad_enabled() and x.dtype == linear.weight.dtype and x.is_cuda:
            # cuBLAS adds the bias and applies the GELU while the product is still in registers
            return torch.ops.aten._addmm_activation.default(linear.bias, x, linear.weight.t(), use_gelu=True)
        return _BiasGelu.apply(self._product(x, linear), linear.bias)

    def heads(
        self, x: Tokens, linear: nn.Linear, q_norm: nn.Module, k_norm: nn.Module, rotary: RotaryTables
    ) -> tuple[Heads, Heads, Heads]:
        """See `Elementwise.heads`."""
        # cuBLAS adds the bias while the product is in registers; its gradient is made where the product's is
        product = self._product(x, linear, linear.bias.detach())
        affine = [] if isinstance(q_norm, nn.Identity) else [q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias]
        eps = getattr(q_norm, "eps", 0.0)
        return _Heads.apply(product, linear.bias, rotary.cos, rotary.sin, eps, *affine)

    def _product(self, x: Tensor, linear: nn.Linear, bias: Tensor | None = None) -> Tensor:
        """X·weightᵀ (+ bias)."""
        return F.linear(x, linear.weight, bias)


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


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, bias: Tensor, gate: Tensor, pieces: Pieces) -> Tensor:
        out, _ = norms.forward(x, norms.Addend(f, bias, gate), None, pieces, NORM_EPS)
        ctx.save_for_backward(f, bias, gate)
        ctx.pieces = pieces
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        f, bias, gate = ctx.saved_tensors
        grads = norms.backward(d_out, None, d_out, norms.Addend(f, bias, gate), None, ctx.pieces, NORM_EPS)
        return grads.x, grads.f, grads.bias, grads.gate, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Tensor, bias: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, pieces: Pieces
    ) -> tuple[Tensor, Tensor]:
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        out, h = norms.forward(x, addend, affine, pieces, NORM_EPS)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(out, *addend, *affine)
        ctx.pieces = pieces
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, f, bias, gate, shift, scale = ctx.saved_tensors
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        grads = norms.backward(d_out, d_h, out, addend, affine, ctx.pieces, NORM_EPS)
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
        ctx: Any, product: Tensor, _bias: Tensor, cos: Tensor, sin: Tensor, eps: float, *affine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(product, cos, sin, *affine)
        ctx.eps = eps
        weights = rotation.Norms(*affine) if affine else None
        return rotation.forward(product, weights, cos, sin, product.shape[1] // (6 * cos.shape[1]), eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        product, cos, sin, *affine = ctx.saved_tensors
        weights = rotation.Norms(*affine) if affine else None
        grads = rotation.backward(d_q, d_k, d_v, product, weights, cos, sin, ctx.eps)
        of_norms = () if grads.norms is None else grads.norms.unbind(0)
        return grads.product, grads.bias, None, None, None, *of_norms
