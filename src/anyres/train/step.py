"""One optimizer step: the gradient of its packs, the update."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from ..shapes import Float, Tensor
from . import ema
from .config import TrainConfig
from .losses import DrawnPack, LossSums, loss_weight, pack_loss
from .state import TrainState


@dataclass(frozen=True, eq=False, kw_only=True)
class StepOutcome:
    """What a step leaves to be read later, on the device.

    Attributes:
        loss: the step's: `total` is the mean that is minimised, parts are means over its real tokens, `groups` sums.
        gradient_norm: before clipping.
        finite: whether loss and gradient were finite; the update is only applied where they were.
    """

    loss: LossSums
    gradient_norm: Float[Tensor, ""]
    finite: Float[Tensor, ""]


def backward(
    state: TrainState, packs: Sequence[DrawnPack], config: TrainConfig, *, lengths: np.ndarray | None = None
) -> LossSums:
    """The gradient of the global sum over the global weight of a step's packs, left in the weights.

    Weighed by token, as is the default, that is the sum over the count of real tokens.

    Args:
        state: the run's.
        packs: this process's packs of the step.
        config: the run's.
        lengths: tokens of each image of the step's packs in all processes; by default of these.

    Returns:
        The step's losses: `total` is the mean that is minimised, the parts are means over its real tokens, so that they
        compare between runs, and `groups` are sums. Nothing is read back from the device.
    """
    if lengths is None:
        lengths = np.array([grid.tokens for pack in packs for grid in pack.layout.grids])
    weight = loss_weight(lengths, config)
    if state.graphed is not None:
        sums = state.graphed(packs, weight)
    else:
        sums = []
        network = state.network
        network.zero_grad(set_to_none=True)
        share = weight / state.team.size  # the processes' gradients are averaged, never their losses
        for pack in packs:
            with state.team.pass_of(network, last=pack is packs[-1]):
                sums.append(pack_loss(network, pack.to(state.model.device), config))
                (sums[-1].total / share).backward()
    names = [field.name for field in fields(LossSums) if field.name != "groups"]
    losses = torch.stack([sum_of(getattr(part, name).detach() for part in sums) for name in names])
    groups = sum_of(part.groups for part in sums)
    of_all = state.team.sum(torch.cat([losses, groups.flatten()]))
    means = dict(zip(names, of_all[: len(names)] / int(lengths.sum()), strict=True))
    means["total"] = of_all[names.index("total")] / weight
    return LossSums(**means, groups=of_all[len(names) :].view_as(groups))


def update(state: TrainState, loss: LossSums, config: TrainConfig) -> StepOutcome:
    """Clip, step and average; on the device, and there only where loss and gradient are finite.

    Loss and norm are those of all processes, so all of them step, or none.
    """
    number = state.progress.step + 1
    applied = state.update(loss.total, number, ema.decay_at(number, config.ema))
    return StepOutcome(loss=loss, gradient_norm=applied.gradient_norm, finite=applied.finite)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(dim=0)
