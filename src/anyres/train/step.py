"""One optimizer step: the gradient of its packs, the update."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch

from ..shapes import Float, Tensor
from . import ema
from .config import TrainConfig
from .losses import DrawnPack, LossSums, pack_loss
from .state import TrainState


@dataclass(frozen=True, eq=False, kw_only=True)
class StepOutcome:
    """What a step leaves to be read later, on the device.

    Attributes:
        loss: the step's losses, means over its real tokens; `groups` are still sums.
        gradient_norm: before clipping.
        finite: whether loss and gradient were finite; the update is only applied where they were.
    """

    loss: LossSums
    gradient_norm: Float[Tensor, ""]
    finite: Float[Tensor, ""]


def backward(
    state: TrainState, packs: Sequence[DrawnPack], config: TrainConfig, *, tokens: int | None = None
) -> LossSums:
    """The gradient of the global sum over the global count of real tokens of a step's packs, left in the weights.

    Args:
        state: the run's.
        packs: this process's packs of the step.
        config: the run's.
        tokens: real tokens of the step's packs in all processes; by default of these.

    Returns:
        The step's losses: means over its real tokens, and of `groups` the sums. Nothing is read back from the device.
    """
    tokens = tokens or sum(pack.layout.tokens for pack in packs)
    if state.graphed is not None:
        sums = state.graphed(packs, tokens)
    else:
        sums = []
        network = state.update.network
        network.zero_grad(set_to_none=True)
        share = tokens / state.team.size  # the processes' gradients are averaged, never their losses
        for pack in packs:
            with state.team.pass_of(network, last=pack is packs[-1]):
                sums.append(pack_loss(network, pack.to(state.model.device), config))
                (sums[-1].total / share).backward()
    names = [field.name for field in fields(LossSums) if field.name != "groups"]
    losses = torch.stack([sum_of(getattr(part, name).detach() for part in sums) for name in names])
    groups = sum_of(part.groups for part in sums)
    of_all = state.team.sum(torch.cat([losses, groups.flatten()]))
    means, groups = of_all[: len(names)] / tokens, of_all[len(names) :].view_as(groups)
    return LossSums(**dict(zip(names, means, strict=True)), groups=groups)


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
