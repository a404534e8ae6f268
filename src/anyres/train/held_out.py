"""The loss on images that are never trained on, whole and by noise level and size."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..packing.loader import PackLoader, Position
from ..shapes import Int, Tensor
from .config import TrainConfig
from .losses import DrawnPack, draw, token_losses
from .state import TrainState

TIMES = 5  # groups of t, equal in width
SIZES = (64, 256, 1024, 4096)  # tokens that images of a group have at most; the last has all larger ones


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
    names, device, ranks = group_names(), state.average.device, state.team.ranks
    packs = min(config.held_out.packs, loader.packs_in(0))
    passes = packs * config.held_out.draws
    sums, flows = torch.zeros(2, device=device), torch.zeros(len(names), device=device)
    counts = torch.zeros(len(names), dtype=torch.int64, device=device)
    for first in range(0, passes, ranks.world):
        in_vain = first + ranks.rank >= passes
        number = 0 if in_vain else first + ranks.rank
        # no dropout: the loss given the label
        drawn = draw(loader.pack(0, number % packs), config, config.seed, "held-out", number, dropout=0.0).to(device)
        found = token_losses(state.average, drawn, config)
        if in_vain:
            continue
        sums += torch.stack([found.flow.sum(), found.direction.sum()])
        # by image first: one long sum would lose digits
        index, rows = drawn.layout.image_index, drawn.layout.shape.images
        flow_of_image = torch.zeros(rows, device=device).index_add_(0, index, found.flow)
        tokens_of_image = torch.zeros(rows, dtype=torch.int64, device=device).index_add_(0, index, drawn.real.long())
        for group in groups_of(drawn):
            flows.index_add_(0, group, flow_of_image)
            counts.index_add_(0, group, tokens_of_image)
    sums, flows, counts = (state.team.sum(values) for values in (sums, flows, counts))
    lengths = loader.lengths_of(Position(epoch=0, pack=0), packs)
    flow, direction = (sums / int(lengths.sum()) / config.held_out.draws).tolist()
    means = (flows / counts).tolist()
    return HeldOutLoss(
        loss=flow + config.direction_weight * direction,
        flow=flow,
        groups={name: means[number] for number, name in enumerate(names) if counts[number] > 0},
        images=len(lengths),
    )


def group_names() -> list[str]:
    """Of the groups, by their numbers."""
    times = [f"t_{number / TIMES:.1f}_{(number + 1) / TIMES:.1f}" for number in range(TIMES)]
    sizes = [f"tokens_{low + 1}_{high}" for low, high in zip((0, *SIZES[:-1]), SIZES, strict=True)]
    return [*times, *sizes, f"tokens_over_{SIZES[-1]}"]


def groups_of(pack: DrawnPack) -> tuple[Int[Tensor, "images"], Int[Tensor, "images"]]:
    """Of each row of a pack, the number of the group of its time, and of its size."""
    tokens = pack.layout.extents.prod(dim=1)
    times = (pack.t * TIMES).long().clamp(0, TIMES - 1)
    return times, TIMES + torch.bucketize(tokens, tokens.new_tensor(SIZES))
