"""The parts of the network: conditioner, modulation, block, head, projector.

Shape letters: T tokens of the pack, I rows of per-image tensors, D width, H heads.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..shapes import Float, Int, Tensor
from .attention import AttentionPlan
from .config import NiTConfig, ProjectionConfig
from .elementwise import Branch, Elementwise, QkvProjection
from .rope import RotaryTables

TIME_FREQUENCIES = 128


@dataclass(frozen=True, eq=False)
class PackContext:
    """What every block needs of a pack besides its tokens; computed once a pack."""

    elementwise: Elementwise
    rotary: RotaryTables
    attention: AttentionPlan


class Conditioner(nn.Module):
    """Time and label → one condition vector an image, after the SiLU that every modulation begins with."""

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.labels = nn.Embedding(num_classes + 1, hidden_size)  # the last row is the null class

    def forward(self, t: Float[Tensor, "images"], labels: Int[Tensor, "images"]) -> Float[Tensor, "images width"]:
        """Times in [0, 1] and class numbers (`num_classes` is the null class) → conditions."""
        return F.silu(self.time(time_features(t).to(self.labels.weight.dtype)) + self.labels(labels))

    def reset_parameters(self) -> None:
        """N(0, 0.02²), zero biases."""
        for layer in self.time:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.labels.weight, std=0.02)


def time_features(t: Float[Tensor, "images"]) -> Float[Tensor, "images features"]:
    """128 cosines, then 128 sines, of t · exp(−ln(10,000)·i/128), in float32 or better; t as it is, in [0, 1]."""
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    i = torch.arange(TIME_FREQUENCIES, device=t.device, dtype=t.dtype)
    angles = t[:, None] * torch.exp(-math.log(10_000) * i / TIME_FREQUENCIES)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Modulation(nn.Module):
    """A linear map from a condition to `chunks` vectors of width D: AdaLN-Zero (arXiv 2212.09748).

    Computed once an image, not once a token; the SiLU before it is the conditioner's, once for all blocks.
    """

    def __init__(self, hidden_size: int, chunks: int, rank: int | None) -> None:
        super().__init__()
        self.chunks = chunks
        # low rank: nothing between the two maps
        self.down = nn.Identity() if rank is None else nn.Linear(hidden_size, rank)
        self.up = nn.Linear(hidden_size if rank is None else rank, chunks * hidden_size)

    def forward(self, condition: Float[Tensor, "images width"]) -> Float[Tensor, "images chunks width"]:
        """Conditions → modulation vectors."""
        return self.up(self.down(condition)).unflatten(1, (self.chunks, -1))

    def reset_parameters(self) -> None:
        """Zero the output, so that every block starts as the identity."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class SelfAttention(nn.Module):
    """Multi-head attention within each image, with axial rotary positions and optional QK-norm."""

    def __init__(self, config: NiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "tokens width"], gate: Float[Tensor, "images width"], pack: PackContext
    ) -> Branch:
        """Tokens, the gate of each image → what is added to the residual stream."""
        attended = pack.elementwise.attended(x, self._projection(pack), pack.attention)
        return pack.elementwise.branch(attended, self.out, gate)

    def project(self, x: Float[Tensor, "tokens width"], pack: PackContext) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normalised and rotated, and values; each (tokens, heads, dim), of one dtype."""
        return pack.elementwise.heads(x, self._projection(pack))

    def _projection(self, pack: PackContext) -> QkvProjection:
        return QkvProjection(self.qkv, self.q_norm, self.k_norm, pack.rotary)


class Mlp(nn.Module):
    """Linear, GELU (tanh), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(
        self, x: Float[Tensor, "tokens width"], gate: Float[Tensor, "images width"], pack: PackContext
    ) -> Branch:
        """Tokens, the gate of each image → what is added to the residual stream."""
        return pack.elementwise.mlp(x, self.up, self.down, gate)


class Block(nn.Module):
    """A transformer block with AdaLN-Zero.

    Attributes:
        recomputed: whether training keeps only the block's input, and computes the rest anew in the backward pass.
    """

    def __init__(self, config: NiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.recomputed = False
        self.modulation = Modulation(width, 6, config.adaln_rank)
        self.attention = SelfAttention(config)
        self.mlp = Mlp(width, round(config.mlp_ratio * width))

    def forward(
        self,
        x: Float[Tensor, "tokens width"],
        branch: Branch | None,
        modulation: Float[Tensor, "images 6 width"],
        pack: PackContext,
    ) -> tuple[Float[Tensor, "tokens width"], Branch | None]:
        """Tokens, the branch of the block before, the modulation of each image → tokens, and the branch of the MLP.

        A recomputed block adds its branch itself, so that one tensor is kept instead of two; all blocks before it have
        to be recomputed ones, too.
        """
        if not self.recomputed:
            return self._parts(x, branch, modulation, pack)
        assert branch is None, "the blocks before a recomputed one are recomputed"  # noqa: S101
        # nothing in it is random
        whole = checkpoint(self._whole, x, modulation, pack, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, whole), None

    def _parts(
        self, x: Tensor, branch: Branch | None, modulation: Float[Tensor, "images 6 width"], pack: PackContext
    ) -> tuple[Float[Tensor, "tokens width"], Branch]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unbind(1)  # of attention, of the MLP
        ops = pack.elementwise
        x, h = ops.norm(x, branch, shift_a, scale_a)
        x, h = ops.norm(x, self.attention(h, gate_a, pack), shift_m, scale_m)
        return x, self.mlp(h, gate_m, pack)

    def _whole(
        self, x: Tensor, modulation: Float[Tensor, "images 6 width"], pack: PackContext
    ) -> Float[Tensor, "tokens width"]:
        x, branch = self._parts(x, None, modulation, pack)
        return pack.elementwise.add(x, branch)


class Head(nn.Module):
    """The output layer: modulated norm and a linear map to a token's values."""

    def __init__(self, config: NiTConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config.hidden_size, 2, None)
        self.linear = nn.Linear(config.hidden_size, config.token_values)

    def forward(
        self,
        x: Float[Tensor, "tokens width"],
        branch: Branch | None,
        modulation: Float[Tensor, "images 2 width"],
        pack: PackContext,
    ) -> Float[Tensor, "tokens values"]:
        """Tokens, the last block's branch, the modulation → velocities, (channels, patch, patch) flattened."""
        shift, scale = modulation.unbind(1)
        return self.linear(pack.elementwise.last_norm(x, branch, shift, scale))

    def reset_parameters(self) -> None:
        """Zero, so that an untrained network predicts zero velocity."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class Projector(nn.Sequential):
    """REPA's projector: three linear maps with SiLU between (arXiv 2410.06940)."""

    def __init__(self, width: int, config: ProjectionConfig) -> None:
        super().__init__(
            nn.Linear(width, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.dim),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                xavier(layer)


def xavier(linear: nn.Linear) -> None:
    """Xavier-uniform weights and a zero bias: how all linear maps begin that have no other rule."""
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
