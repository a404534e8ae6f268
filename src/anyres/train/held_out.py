"""The loss on images that are never trained on."""

from dataclasses import dataclass

import torch

from ..packing.loader import PackLoader, Position
from .config import TrainConfig
from .losses import draw, pack_loss
from .state import TrainState


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
    """The loss of the averaged weights on held-out packs, with the same packs, times and noise at every call.

    The processes share the packs; each makes as many passes as the others, the last perhaps in vain, since sharded
    weights are gathered by all of them for each.
    """
    device, ranks = state.average.device, state.team.ranks
    packs = min(config.held_out.packs, loader.packs_in(0))
    total, flow = torch.zeros((), device=device), torch.zeros((), device=device)
    for first in range(0, packs, ranks.world):
        number = first + ranks.rank
        counts = number < packs
        number = number if counts else 0
        # no dropout: the loss given the label
        drawn = draw(loader.pack(0, number), config, config.seed, "held-out", number, dropout=0.0)
        sums = pack_loss(state.average, drawn.to(device), config)
        total, flow = total + counts * sums.total, flow + counts * sums.flow
    lengths = loader.lengths_of(Position(epoch=0, pack=0), packs)
    means = state.team.sum(torch.stack([total, flow])) / int(lengths.sum())
    return HeldOutLoss(loss=float(means[0]), flow=float(means[1]), images=len(lengths))
