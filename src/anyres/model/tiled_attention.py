"""The attention backend `triton`: its kernels as one differentiable function."""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..shapes import Tensor
from .kernels import attention
from .kernels.attention import Tiles


class TiledAttention(torch.autograd.Function):
    """Attention over a cut pack; see `anyres.model.attention.attend`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Tiles) -> Tensor:
        """(tokens, heads, dim) each → attended values."""
        out, lse = attention.forward(q, k, v, plan)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan = plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the three, by kernels that add up in a fixed order."""
        q, k, v, out, lse = ctx.saved_tensors
        d_v = torch.empty_like(v, memory_format=torch.contiguous_format)
        grads = attention.backward(d_out, q, k, v, out, lse, ctx.plan, d_v)
        return grads.q, grads.k, d_v, None
