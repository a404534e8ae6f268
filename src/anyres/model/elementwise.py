"""What a block does around its large matrix products, the small steps with the products that they belong to.

`Elementwise` is the definition, and what runs on a CPU. `fused.FusedElementwise` does the same with one pass over the
tokens for each of its functions; a network uses whichever `elementwise_for` picks.

Shape letters: T tokens of the pack, I rows of per-image tensors, D width, H heads.
"""

import functools
import importlib.util
import logging
import os
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from ..config import suggestion
from ..errors import BackendError, ConfigError
from ..packing.pack import PackLayout
from ..shapes import Float, Int, Tensor
from .attention import AttentionPlan, attend
from .plain import ScaledSum, SigmoidGelu
from .rope import RotaryTables, rotate

NORM_EPS = 1e-6

Kernels = Literal["auto", "eager", "triton"]

logger = logging.getLogger(__name__)

Vectors = Float[Tensor, "images width"]
Tokens = Float[Tensor, "tokens width"]
Heads = Float[Tensor, "tokens heads dim"]


class Branch(NamedTuple):
    """What is still to be added to the residual stream, gate·(product + bias): the next norm does it in the same pass.

    A tuple, since FSDP2 looks for tensors in those. It holds no weight of its block, which may be gone by then.

    Attributes:
        product: of the branch's last linear map.
        bias: of that map, where the product is without it.
        gate: of each image.
    """

    product: Tokens
    bias: Float[Tensor, "width"] | None
    gate: Vectors


class QkvProjection(NamedTuple):
    """What queries, keys and values are made with.

    Attributes:
        linear: D → 3·D, laid out (3, H, dim).
        q_norm: LayerNorm of queries, or the identity.
        k_norm: of keys.
        rotary: the pack's tables; they give the number of pairs, and so of heads.
    """

    linear: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    rotary: RotaryTables


class Elementwise:
    """The plain functions, over the tokens of one pack.

    Args:
        image_index: the row of each token's image.
    """

    def __init__(self, image_index: Int[Tensor, "tokens"]) -> None:
        self.image_index = image_index

    def branch(self, inner: Float[Tensor, "tokens inner"], linear: nn.Linear, gate: Vectors) -> Branch:
        """What `linear(inner)` and a gate will add."""
        return Branch(linear(inner), None, gate)

    def mlp(self, x: Tokens, up: nn.Linear, down: nn.Linear, gate: Vectors) -> Branch:
        """What down(gelu(up(x))) and a gate will add; GELU by its tanh form."""
        return self.branch(_gelu(up(x)), down, gate)

    def attended(self, x: Tokens, projection: QkvProjection, plan: AttentionPlan) -> Float[Tensor, "tokens inner"]:
        """Attention within each image, heads side by side."""
        return attend(*self.heads(x, projection), plan).flatten(1)

    def heads(self, x: Tokens, projection: QkvProjection) -> tuple[Heads, Heads, Heads]:
        """Queries and keys, normalised over a head's dimension and rotated, and values; of one dtype."""
        linear, q_norm, k_norm, rotary = projection
        q, k, v = linear(x).unflatten(1, (3, -1, 2 * rotary.cos.shape[1])).unbind(1)
        # autocast computes the norms in float32; attention wants one dtype
        return rotate(q_norm(q), rotary).to(v.dtype), rotate(k_norm(k), rotary).to(v.dtype), v

    def add(self, x: Tokens, branch: Branch) -> Tokens:
        """X + gate·(product + bias)."""
        product = branch.product if branch.bias is None else branch.product + branch.bias.to(branch.product.dtype)
        return self._scaled_sum(x, branch.gate, product)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """X with its branch added, and LayerNorm(x)·(1 + scale) + shift of that, without a learned affine.

        x comes back also without a branch, so that its two gradients are added where the norm's is made.
        """
        x = x if branch is None else self.add(x, branch)
        normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        return x, self._scaled_sum(shift.index_select(0, self.image_index), 1 + scale, normed)

    def last_norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> Tokens:
        """The same before the network's last map, which is never in 8 bits: the norm alone."""
        return self.norm(x, branch, shift, scale)[1]

    def _scaled_sum(self, x: Tokens, scale: Vectors, f: Tokens) -> Tokens:
        return cast(Tensor, ScaledSum.apply(x, scale, f, self.image_index))


def _gelu(x: Float[Tensor, "tokens inner"]) -> Float[Tensor, "tokens inner"]:
    """GELU (tanh), where it is fastest: a function of many passes must not round in each."""
    if x.is_cpu and x.dtype in (torch.float32, torch.float64):
        return cast(Tensor, SigmoidGelu.apply(x))
    return F.gelu(x, approximate="tanh")


def elementwise_for(layout: PackLayout, kernels: str, float8: Any = None) -> Elementwise:
    """The functions for a pack, on its device.

    Args:
        layout: the pack.
        kernels: what computes them.
        float8: `Float8Weights` of the blocks, where their products are to be in 8 bits.

    Raises:
        ConfigError: an unknown name.
        BackendError: Triton is asked for, and it cannot run here.
    """
    if float8 is not None:
        from .fused_float8 import Float8Elementwise  # Triton is imported only here

        return Float8Elementwise(layout, float8)
    if pick_kernels(kernels, layout.device) == "eager":
        return Elementwise(layout.image_index)
    from .fused import FusedElementwise  # and here

    return FusedElementwise(layout)


def pick_kernels(kernels: str, device: torch.device) -> str:
    """Resolve "auto" for a device, and check an explicit choice.

    Raises:
        ConfigError: an unknown name.
        BackendError: Triton is asked for, and it cannot run here.
    """
    if kernels not in Kernels.__args__:
        raise ConfigError(
            f"got kernels {kernels!r}",
            wanted=f"one of {', '.join(Kernels.__args__)}",
            fix=suggestion(kernels, Kernels.__args__) or "use 'auto'",
        )
    missing = _missing(device)
    if kernels == "auto":
        choice = "eager" if missing or device.type != "cuda" else "triton"
        _say_once(choice, device.type)
        return choice
    if kernels == "triton" and missing:
        raise BackendError(
            f"Triton's kernels cannot run here: they need {missing}",
            wanted="a CUDA device and the triton package, which torch brings along on Linux",
            fix="use 'auto', or 'eager', which runs anywhere",
        )
    return kernels


def _missing(device: torch.device) -> str | None:
    """What Triton lacks here, in words, or None; Triton itself is imported only where it is used."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"a CUDA device, and this is {device.type}"
    return "the triton package" if importlib.util.find_spec("triton") is None else None


@functools.cache
def _say_once(choice: str, device: str) -> None:
    logger.info("kernels: %s (auto, %s)", choice, device)
