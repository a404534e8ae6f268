"""The loss on images that are never trained on, whole and by noise level and size."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..packing.loader import PackLoader, Position
from .config import TrainConfig
from .groups import group_means, group_names, group_sums
from .losses import draw, token_losses
from .state import TrainState


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Means over the tokens of the held-out packs.

    Attributes:
        loss: what training minimises where it weighs by token, without the alignment with a teacher.
        flow: its mean-square part.
        groups: that part by group, such as "t_0.4_0.6" and "tokens_65_256"; groups without a token are left out.
        images: held-out images (rows) measured.
    """

    loss: float
    flow: float
    groups: Mapping[str, float]
    images: int


@torch.no_grad()
def held_out_loss(state: TrainState, loader: PackLoader, config: TrainConfig) -> HeldOutLoss:
    """The loss of the averaged weights on held-out packs, with the same packs, times and noise at every call.

    The processes share the packs; each makes as many passes as the others, the last perhaps in vain, since sharded
    weights are gathered by all of them for each.
    """
    device, ranks = state.average.device, state.team.ranks
    packs = min(config.held_out.packs, loader.packs_in(0))
    passes = packs * config.held_out.draws
    sums, groups = torch.zeros(2, device=device), torch.zeros(2, len(group_names()), device=device)
    for first in range(0, passes, ranks.world):
        in_vain = first + ranks.rank >= passes
        number = 0 if in_vain else first + ranks.rank
        # no dropout: the loss given the label
        drawn = draw(loader.pack(0, number % packs), config, config.seed, "held-out", number, dropout=0.0).to(device)
        found = token_losses(state.average, drawn, config)
        if in_vain:
            continue
        sums += torch.stack([found.flow.sum(), found.direction.sum()])
        groups += group_sums(found.flow, drawn.real, drawn.layout, drawn.t)
    sums, groups = (state.team.sum(values) for values in (sums, groups))
    lengths = loader.lengths_of(Position(epoch=0, pack=0), packs)
    flow, direction = (sums / int(lengths.sum()) / config.held_out.draws).tolist()
    return HeldOutLoss(
        loss=flow + config.direction_weight * direction,
        flow=flow,
        groups=group_means(groups),
        images=len(lengths),
    )
