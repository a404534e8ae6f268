"""One optimizer step: the gradient of its packs, the update."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        loss: the step's losses, means over its real tokens.
        gradient_norm: before clipping.
        finite: whether loss and gradient were finite; the update is only applied where they were.
    """

    loss: LossSums
    gradient_norm: Float[Tensor, ""]
    finite: Float[Tensor, ""]


def backward(state: TrainState, packs: Sequence[DrawnPack], config: TrainConfig) -> LossSums:
    """The gradient of the global sum over the global count of real tokens of consecutive packs, left in the weights.

    Returns:
        The step's losses, means over its real tokens. Nothing is read back from the device.
    """
    tokens = sum(pack.layout.tokens for pack in packs)
    if state.graphed is not None:
        sums = state.graphed(packs, tokens)
    else:
        sums = []
        network = state.update.network
        network.zero_grad(set_to_none=True)
        for pack in packs:
            sums.append(pack_loss(network, pack.to(network.device), config))
            (sums[-1].total / tokens).backward()
    return LossSums(
        total=sum_of(part.total.detach() for part in sums) / tokens,
        flow=sum_of(part.flow for part in sums) / tokens,
        direction=sum_of(part.direction for part in sums) / tokens,
        alignment=sum_of(part.alignment for part in sums) / tokens,
    )


def update(state: TrainState, loss: LossSums, config: TrainConfig) -> StepOutcome:
    """Clip, step and average; on the device, and there only where loss and gradient are finite."""
    number = state.progress.step + 1
    applied = state.update(loss.total, number, ema.decay_at(number, config.ema))
    return StepOutcome(loss=loss, gradient_norm=applied.gradient_norm, finite=applied.finite)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of 0-d tensors."""
    return torch.stack(list(tensors)).sum()
