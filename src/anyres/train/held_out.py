"""The loss on images that are never trained on."""

from dataclasses import dataclass

import torch

from ..packing.loader import PackLoader
from .config import TrainConfig
from .losses import LossSums, draw, pack_loss
from .state import TrainState
from .step import sum_of


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Means over the tokens of the held-out packs.

    Attributes:
        loss: what training minimises.
        flow: its mean-square part.
        images: held-out images (rows) measured.
    """

    loss: float
    flow: float
    images: int


@torch.no_grad()
def held_out_loss(state: TrainState, loader: PackLoader, config: TrainConfig) -> HeldOutLoss:
    """The loss of the averaged weights on held-out packs, with the same packs, times and noise at every call."""
    sums: list[LossSums] = []
    tokens = images = 0
    for number in range(min(config.held_out.packs, loader.packs_in(0))):
        pack = loader.pack(0, number)
        # no dropout: the loss given the label
        drawn = draw(pack, config, config.seed, "held-out", number, dropout=0.0)
        sums.append(pack_loss(state.average, drawn.to(state.average.device), config))
        tokens += pack.layout.tokens
        images += pack.layout.images
    return HeldOutLoss(
        loss=float(sum_of(part.total for part in sums)) / tokens,
        flow=float(sum_of(part.flow for part in sums)) / tokens,
        images=images,
    )
