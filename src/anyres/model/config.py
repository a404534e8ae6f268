"""The network's architecture and its presets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..config import require, suggestion
from ..errors import ConfigError

PositionOrder = Literal["row_major", "column_major"]


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """The projector of REPA (arXiv 2410.06940): from a block's tokens to a teacher's features. Training only.

    Attributes:
        after_block: the block whose output is projected, counted from 1.
        hidden: width of the two hidden layers.
        dim: channels of the teacher's features.
    """

    after_block: int
    hidden: int
    dim: int


@dataclass(frozen=True, kw_only=True)
class NiTConfig:
    """The architecture of `NiT`.

    Attributes:
        channels: channels of a latent cell.
        patch_size: cells a side of a token.
        hidden_size: width D.
        depth: number of blocks.
        num_heads: attention heads; D / num_heads must be a multiple of 4 (two axes of rotated pairs).
        num_classes: number of classes; the null class is row `num_classes` of the label table.
        mlp_ratio: hidden width of the MLP over D.
        qk_norm: normalise queries and keys over the head dimension.
        adaln_rank: rank of the blocks' modulation, or None for a full matrix.
        position_order: how the rotary embedding reads a token's place. "row_major" is right; "column_major" is
            what the released code does, which on an image that is not square gives token n the position
            (n mod height, n div height); its checkpoints have learned it.
        projection: the REPA projector, or None.
    """

    channels: int
    hidden_size: int
    depth: int
    num_heads: int
    num_classes: int
    patch_size: int = 1
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    adaln_rank: int | None = None
    position_order: PositionOrder = "row_major"
    projection: ProjectionConfig | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "hidden_size", "depth", "num_heads", "num_classes", "patch_size"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")
        require(
            self.hidden_size % (4 * self.num_heads) == 0,
            f"hidden_size = {self.hidden_size} with num_heads = {self.num_heads}",
            "a head dimension that is a multiple of 4 (rotated pairs on two axes)",
        )
        require(self.mlp_ratio > 0, f"mlp_ratio = {self.mlp_ratio}", "more than 0")
        require(
            self.adaln_rank is None or self.adaln_rank >= 1, f"adaln_rank = {self.adaln_rank}", "1 or more, or None"
        )
        require(
            self.position_order in ("row_major", "column_major"),
            f"position_order = {self.position_order!r}",
            "'row_major' or 'column_major'",
        )
        if self.projection is not None:
            require(
                1 <= self.projection.after_block <= self.depth,
                f"projection.after_block = {self.projection.after_block}",
                f"a block from 1 to {self.depth}",
            )

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def token_values(self) -> int:
        """Values of a token: channels · patch²."""
        return self.channels * self.patch_size**2

    @property
    def null_label(self) -> int:
        """The label of the null class."""
        return self.num_classes

    @classmethod
    def preset(cls, name: str, *, num_classes: int, channels: int = 32, **overrides: Any) -> "NiTConfig":
        """A published architecture: "s", "b", "l", "xl" or "xxl"; or "mini", small enough for a CPU.

        Args:
            name: the preset.
            num_classes: number of classes.
            channels: channels of a latent cell (32 for DC-AE f32c32).
            **overrides: other fields of the configuration. No preset has a projector unless it is passed.

        Raises:
            ConfigError: an unknown preset, or fields that do not go together.
        """
        if name not in PRESETS:
            raise ConfigError(
                f"got preset {name!r}",
                wanted=f"one of {', '.join(PRESETS)}",
                fix=suggestion(name, PRESETS) or "use one of them",
            )
        return cls(**{**PRESETS[name], "channels": channels, "num_classes": num_classes, **overrides})

    def forward_flops(self, lengths: Sequence[int]) -> int:
        """Floating-point operations of one forward pass over images of these lengths (tokens), projector left out.

        Counts matrix products only, two operations a multiply-add, attention within each image.
        """
        return round(float(np.sum(self.image_flops(np.asarray(lengths)))))

    def image_flops(self, tokens: Any) -> Any:
        """The same of one image, from its tokens: a number, or an array of them."""
        d = self.hidden_size
        per_token = 2 * d * d * (4 + 2 * self.mlp_ratio) * self.depth + 4 * d * self.token_values
        modulation = 12 * d * d if self.adaln_rank is None else 2 * self.adaln_rank * 7 * d
        per_image = modulation * self.depth + 4 * d * d + 2 * d * d + 512 * d
        return per_image + per_token * tokens + 4.0 * d * self.depth * tokens * tokens


# arXiv 2506.03131, table of model configurations; `mini` is ours
PRESETS: dict[str, dict[str, Any]] = {
    "mini": {"depth": 8, "hidden_size": 320, "num_heads": 5, "adaln_rank": 64},
    "s": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "b": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "l": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "xl": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
    "xxl": {"depth": 40, "hidden_size": 1536, "num_heads": 24, "adaln_rank": 512},
}

# the projectors of the published runs (RADIO-v2.5-H; RADIO-B for S)
PUBLISHED_PROJECTIONS: dict[str, ProjectionConfig] = {
    "s": ProjectionConfig(after_block=4, hidden=768, dim=768),
    "b": ProjectionConfig(after_block=4, hidden=2048, dim=1280),
    "l": ProjectionConfig(after_block=6, hidden=2048, dim=1280),
    "xl": ProjectionConfig(after_block=8, hidden=2048, dim=1280),
    "xxl": ProjectionConfig(after_block=8, hidden=2048, dim=1280),
}
