"""Functions with gradients of their own, in fewer passes over memory than torch would take.

A CPU's time between two products is that of such passes: `elementwise.Elementwise` and attention by `sdpa` run there.
"""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..shapes import Tensor

# 2z = u·(A + B·u²)
A = 2 * math.sqrt(2 / math.pi)
B = 0.044715 * A


class SigmoidGelu(torch.autograd.Function):
    """GELU (tanh) of float32 or better: torch has a fast exponential on a CPU, and a slow tanh.

    gelu(u) = u·σ(2z), since tanh(z) = 2σ(2z) − 1; its slope is σ·(1 + u·(1 − σ)·(A + 3B·u²)).
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """Of each value."""
        gate = torch.addcmul(u.new_tensor(A), u, u, value=B).mul_(u).sigmoid_()
        ctx.save_for_backward(u, gate)
        return u * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        """The input's gradient."""
        u, gate = ctx.saved_tensors
        slope = torch.addcmul(u.new_tensor(A), u, u, value=3 * B).mul_(u)
        slope = slope.addcmul_(slope, gate, value=-1)  # times 1 − σ
        return torch.addcmul(gate, slope, gate, out=slope).mul_(d_out)


class ScaledSum(torch.autograd.Function):
    """x + scale·f, where each row of `scale` holds for the tokens of one image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, f: Tensor, image_index: Tensor) -> Tensor:
        """X and f of tokens × width, scale of images × width, the row of each token's image."""
        ctx.save_for_backward(scale, f, image_index)
        ctx.dtype = x.dtype
        return torch.addcmul(x, scale.index_select(0, image_index), f)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Those of the first three."""
        scale, f, image_index = ctx.saved_tensors
        d_f = d_out * scale.index_select(0, image_index)
        products = d_out * f
        exact = products.new_zeros(scale.shape, dtype=torch.promote_types(products.dtype, torch.float32))
        d_scale = exact.index_add_(0, image_index, products.to(exact.dtype))
        return d_out.to(ctx.dtype), d_scale.to(scale.dtype), d_f.to(f.dtype), None


class Reordered(torch.autograd.Function):
    """Rows in another order; torch's own gradient would add rows up, though each comes once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """Row order[i] as row i; `inverse` undoes that."""
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        """The rows'."""
        return d_out.index_select(0, *ctx.saved_tensors), None, None
