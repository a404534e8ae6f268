"""Speeds of training that were measured, by which `anyres train --plan` tells how long a run takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..model.config import NiTConfig


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run whose speed was measured, on one device.

    Attributes:
        network: the preset.
        device: its name.
        tokens_per_second: real tokens of whole steps.
        peak_gib: memory at most, everything included.
        budget: tokens of a pack.
        source: where it is recorded.
        recomputed_blocks: of the run.
    """

    network: str
    device: str
    tokens_per_second: float
    peak_gib: float
    budget: int
    source: str
    recomputed_blocks: int = 0

    def __str__(self) -> str:
        return (
            f"{self.tokens_per_second:,.0f} tokens/s on one {self.device} with packs of {self.budget:,} tokens, "
            f"{self.peak_gib} GiB at most ({self.source})"
        )


def _published(network: str, tokens_per_second: float, peak_gib: float, budget: int) -> Measured:
    """One of the published networks, at its published pack."""
    return Measured(
        network=network,
        device="NVIDIA H100 80GB HBM3",
        tokens_per_second=tokens_per_second,
        peak_gib=peak_gib,
        budget=budget,
        source="benchmarks/results/sizes.json, without a teacher",
    )


MEASURED: tuple[Measured, ...] = (
    Measured(
        network="mini",
        device="NVIDIA H200",
        tokens_per_second=900_000,
        peak_gib=9.3,
        budget=65_536,
        source="docs/LOG.md, 2026-11-24: the model in the box",
    ),
    _published("s", 1_745_700, 12.5, 65_536),
    _published("b", 722_800, 26.5, 65_536),
    _published("l", 215_300, 24.0, 16_384),
    _published("xl", 142_200, 33.7, 16_384),
    _published("xxl", 59_800, 43.9, 8_192),
)


def fitting(model: NiTConfig, records: Sequence[Measured] = MEASURED) -> list[Measured]:
    """Those of a network of the same depth, width, heads, MLP and modulation, whatever its channels and classes."""
    return [record for record in records if _shape(model) == _shape(_preset(record.network))]


def _preset(name: str) -> NiTConfig:
    return NiTConfig.preset(name, num_classes=1)


def _shape(model: NiTConfig) -> tuple:
    return (model.depth, model.hidden_size, model.num_heads, model.mlp_ratio, model.qk_norm, model.adaln_rank)
