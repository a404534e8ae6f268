"""`Elementwise` with Triton: each function is one kernel forward and one or two backward."""

# autograd.Function declares its methods as (*args) -> Any
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from ..packing.pack import PackLayout
from ..shapes import Float, Tensor
from .attention import AttentionPlan, Tiled
from .elementwise import NORM_EPS, Branch, Elementwise, Heads, QkvProjection, Tokens, Vectors
from .kernels import attention, cublas, forward_attention, gelu, norms, rotation, sums
from .kernels.attention import Tiles
from .kernels.pieces import Pieces, cut


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

    def branch(self, inner: Float[Tensor, "tokens inner"], linear: nn.Linear, gate: Vectors) -> Branch:
        """See `Elementwise.branch`."""
        # a copy, since a sharded weight is gone once its block is done
        return Branch(self._product(inner, linear), linear.bias.clone(), gate)

    def mlp(self, x: Tokens, up: nn.Linear, down: nn.Linear, gate: Vectors) -> Branch:
        """See `Elementwise.mlp`."""
        if cublas.usable(x, up.weight, up.bias, down.weight):
            if torch.is_grad_enabled():
                return Branch(_Mlp.apply(x, up.weight, up.bias, down.weight), down.bias.clone(), gate)
            return self.branch(cublas.linear_gelu(x, up.weight, up.bias), down, gate)
        return self.branch(_BiasGelu.apply(F.linear(x, up.weight), up.bias), down, gate)

    def attended(self, x: Tokens, projection: QkvProjection, plan: AttentionPlan) -> Float[Tensor, "tokens inner"]:
        """See `Elementwise.attended`."""
        if not isinstance(plan, Tiled):
            return super().attended(x, projection, plan)
        projected = self._projected(x, projection)
        if torch.is_grad_enabled() or plan.forward is None:
            return _Attended.apply(plan.tiles, *projected).flatten(1)
        product, _, cos, sin, eps, *affine = projected
        weights = rotation.Norms(*affine) if affine else None
        heads = product.shape[1] // (6 * cos.shape[1])
        return forward_attention.forward(product, weights, cos, sin, heads, eps, plan.forward).flatten(1)

    def heads(self, x: Tokens, projection: QkvProjection) -> tuple[Heads, Heads, Heads]:
        """See `Elementwise.heads`."""
        return _Heads.apply(*self._projected(x, projection))

    def add(self, x: Tokens, branch: Branch) -> Tokens:
        """See `Elementwise.add`."""
        return _Add.apply(x, *branch, self.image_index, self._pieces)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """See `Elementwise.norm`."""
        if branch is None:
            return _Norm.apply(x, shift, scale, self.image_index, self._pieces)
        return _AddNorm.apply(x, *branch, shift, scale, self.image_index, self._pieces)

    def _projected(self, x: Tokens, projection: QkvProjection) -> tuple[Any, ...]:
        """The product, its bias, tables, eps and the norms' weights: what `_Heads` takes."""
        linear, q_norm, k_norm, rotary = projection
        # cuBLAS adds the bias while the product is in registers; its gradient is made where the product's is
        product = self._product(x, linear, linear.bias.detach())
        affine = [] if isinstance(q_norm, nn.Identity) else [q_norm.weight, q_norm.bias, k_norm.weight, k_norm.bias]
        return product, linear.bias, rotary.cos, rotary.sin, getattr(q_norm, "eps", 0.0), *affine

    def _product(self, x: Tensor, linear: nn.Linear, bias: Tensor | None = None) -> Tensor:
        """X·weightᵀ (+ bias, without its gradient)."""
        biases = [] if bias is None else [bias]
        if not cublas.usable(x, linear.weight, *biases):
            return F.linear(x, linear.weight, bias)
        product = _Linear.apply if torch.is_grad_enabled() else cublas.linear
        return product(x, linear.weight, *biases)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, image_index: Tensor, pieces: Pieces
    ) -> tuple[Tensor, Tensor]:
        x, h, spread = norms.forward(x, None, norms.Affine(shift, scale), image_index, NORM_EPS)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(x, spread, shift, scale)
        ctx.pieces = pieces
        return x, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, spread, *affine = ctx.saved_tensors
        grads = norms.backward(d_x, d_h, x, spread, None, norms.Affine(*affine), ctx.pieces)
        return grads.x, grads.shift, grads.scale, None, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Tensor, bias: Tensor, gate: Tensor, image_index: Tensor, pieces: Pieces
    ) -> Tensor:
        out, *_ = norms.forward(x, norms.Addend(f, bias, gate), None, image_index, NORM_EPS)
        ctx.save_for_backward(f, bias, gate)
        ctx.pieces = pieces
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        f, bias, gate = ctx.saved_tensors
        grads = norms.backward(d_out, None, d_out, d_out, norms.Addend(f, bias, gate), None, ctx.pieces)
        return grads.x, grads.f, grads.bias, grads.gate, None, None


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
        image_index: Tensor,
        pieces: Pieces,
    ) -> tuple[Tensor, Tensor]:
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        out, h, spread = norms.forward(x, addend, affine, image_index, NORM_EPS)
        assert h is not None  # noqa: S101 - an affine was given
        ctx.save_for_backward(out, spread, *addend, *affine)
        ctx.pieces = pieces
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        out, spread, f, bias, gate, shift, scale = ctx.saved_tensors
        addend, affine = norms.Addend(f, bias, gate), norms.Affine(shift, scale)
        grads = norms.backward(d_out, d_h, out, spread, addend, affine, ctx.pieces)
        return grads.x, grads.f, grads.bias, grads.gate, grads.shift, grads.scale, None, None


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(product, bias)
        return gelu.forward(product, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor]:
        return gelu.backward(d_out, *ctx.saved_tensors)


class _Linear(torch.autograd.Function):
    """X·weightᵀ (+ bias, without its gradient)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *biases: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return cublas.linear(x, weight, *biases)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_weight = cublas.weight_gradient(d_out, x) if ctx.needs_input_grad[1] else None
        return cublas.input_gradient(d_out, weight), d_weight, *[None] * (len(ctx.needs_input_grad) - 2)


class _Mlp(torch.autograd.Function):
    """down(gelu(up(x))) without down's bias, with a GELU that is no pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor) -> Tensor:
        inner, before = cublas.linear_gelu_keeping(x, up, up_bias)
        ctx.save_for_backward(x, up, down, inner, before)
        return cublas.linear(inner, down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, ...]:
        x, up, down, inner, before = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_before = cublas.gelu_gradient(d_out, down, before)
        d_up_bias = sums.over_rows(d_before, d_before.new_empty(d_before.shape[1]))
        d_up, d_down = cublas.weight_gradient(d_before, x), cublas.weight_gradient(d_out, inner)
        return cublas.input_gradient(d_before, up), d_up, d_up_bias, d_down


class _Heads(torch.autograd.Function):
    """Queries, keys and values of a product whose bias is added."""

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, eps: float, *affine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(product, cos, sin, *affine)
        ctx.eps, ctx.of_bias = eps, bias.dtype
        return _heads(product, cos, sin, eps, affine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        product, cos, sin, *affine = ctx.saved_tensors
        d_product = torch.empty_like(product)
        d_product.view(len(product), 3, *d_v.shape[1:])[:, 2] = d_v
        return _heads_backward(d_q, d_k, d_v.contiguous(), ctx.of_bias, product, cos, sin, ctx.eps, affine, d_product)


class _Attended(torch.autograd.Function):
    """The same and attention by tiles, which leaves the values' gradient where the product's is wanted."""

    @staticmethod
    def forward(
        ctx: Any, tiles: Tiles, product: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, eps: float, *affine: Tensor
    ) -> Tensor:
        q, k, v = _heads(product, cos, sin, eps, affine)
        out, lse = attention.forward(q, k, v, tiles)
        ctx.save_for_backward(product, cos, sin, q, k, out, lse, *affine)
        ctx.tiles, ctx.eps, ctx.of_bias = tiles, eps, bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        product, cos, sin, q, k, out, lse, *affine = ctx.saved_tensors
        d_product = torch.empty_like(product)
        v, d_v = (one.view(len(product), 3, *q.shape[1:])[:, 2] for one in (product, d_product))
        grads = attention.backward(d_out, q, k, v, out, lse, ctx.tiles, d_v)
        parts = grads.q, grads.k, grads.sum_v
        return None, *_heads_backward(*parts, ctx.of_bias, product, cos, sin, ctx.eps, affine, d_product)


def _heads(
    product: Tensor, cos: Tensor, sin: Tensor, eps: float, affine: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    weights = rotation.Norms(*affine) if affine else None
    return rotation.forward(product, weights, cos, sin, product.shape[1] // (6 * cos.shape[1]), eps)


def _heads_backward(
    d_q: Tensor,
    d_k: Tensor,
    parts_v: Tensor,
    of_bias: torch.dtype,
    product: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    affine: Sequence[Tensor],
    d_product: Tensor,
) -> tuple[Tensor | None, ...]:
    """Of `_Heads`' inputs; completes d_product, which has the values' part already. `parts_v` add up to its sum."""
    d_bias = product.new_empty(product.shape[1], dtype=of_bias)
    sums.over_rows(parts_v, d_bias[-parts_v[0].numel() :])
    weights = rotation.Norms(*affine) if affine else None
    d_norms = rotation.backward(d_q, d_k, product, weights, cos, sin, eps, d_product, d_bias)
    return d_product, d_bias, None, None, None, *(() if d_norms is None else d_norms.unbind(0))
