"""What lies between the large matrix products of a block, the small steps with the product that they follow.

`Elementwise` is the definition, and what runs on a CPU. `fused.FusedElementwise` does the same with one pass over the
tokens for each of its functions; a network uses whichever `elementwise_for` picks.

Shape letters: T tokens of the pack, I rows of per-image tensors, D width, H heads.
"""

import functools
import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..config import suggestion
from ..errors import BackendError, ConfigError
from ..packing.pack import PackLayout
from ..shapes import Float, Int, Tensor
from .rope import RotaryTables, rotate

NORM_EPS = 1e-6

Kernels = Literal["auto", "eager", "triton"]

logger = logging.getLogger(__name__)

Vectors = Float[Tensor, "images width"]
Tokens = Float[Tensor, "tokens width"]
Heads = Float[Tensor, "tokens heads dim"]


@dataclass(frozen=True, eq=False)
class Branch:
    """What is still to be added to the residual stream, gate·linear(inner): the next norm does it in the same pass.

    Attributes:
        inner: the linear map's input.
        linear: the branch's last map.
        gate: of each image.
    """

    inner: Float[Tensor, "tokens inner"]
    linear: nn.Linear
    gate: Vectors


class Elementwise:
    """The plain functions, over the tokens of one pack.

    Args:
        image_index: the row of each token's image.
    """

    def __init__(self, image_index: Int[Tensor, "tokens"]) -> None:
        self.image_index = image_index

    def add(self, x: Tokens, branch: Branch) -> Tokens:
        """X + gate·linear(inner)."""
        return x + self._of_token(branch.gate) * branch.linear(branch.inner)

    def norm(self, x: Tokens, branch: Branch | None, shift: Vectors, scale: Vectors) -> tuple[Tokens, Tokens]:
        """X with its branch added, and LayerNorm(x)·(1 + scale) + shift of that, without a learned affine.

        x comes back also without a branch, so that its two gradients are added where the norm's is made.
        """
        x = x if branch is None else self.add(x, branch)
        normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        return x, normed * (1 + self._of_token(scale)) + self._of_token(shift)

    def last_norm(self, x: Tokens, branch: Branch, shift: Vectors, scale: Vectors) -> Tokens:
        """The same before the network's last map: the norm alone, never in 8 bits."""
        return self.norm(x, branch, shift, scale)[1]

    def linear_gelu(self, x: Tokens, linear: nn.Linear) -> Float[Tensor, "tokens inner"]:
        """GELU (tanh) of linear(x)."""
        return F.gelu(linear(x), approximate="tanh")

    def heads(
        self, x: Tokens, linear: nn.Linear, q_norm: nn.Module, k_norm: nn.Module, rotary: RotaryTables
    ) -> tuple[Heads, Heads, Heads]:
        """Queries and keys, normalised over a head's dimension and rotated, and values; of one dtype.

        Args:
            x: the tokens.
            linear: D → 3·D, laid out (3, H, dim).
            q_norm: LayerNorm of queries, or the identity.
            k_norm: of keys.
            rotary: the pack's tables; they give the number of pairs, and so of heads.
        """
        q, k, v = linear(x).unflatten(1, (3, -1, 2 * rotary.cos.shape[1])).unbind(1)
        # autocast computes the norms in float32; attention wants one dtype
        return rotate(q_norm(q), rotary).to(v.dtype), rotate(k_norm(k), rotary).to(v.dtype), v

    def _of_token(self, vectors: Vectors) -> Tokens:
        """One vector an image → one a token."""
        return vectors.index_select(0, self.image_index)


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
