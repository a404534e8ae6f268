"""One optimizer step: the gradient of its packs, the update."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn

from ..shapes import Float, Tensor
from . import ema
from .config import TrainConfig
from .distributed import local
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
        The step's losses, means over its real tokens. Nothing is read back from the device.
    """
    tokens = tokens or sum(pack.layout.tokens for pack in packs)
    if state.graphed is not None:
        sums = state.graphed(packs, tokens)
    else:
        sums = []
        state.optimizer.zero_grad(set_to_none=True)
        share = tokens / state.team.size  # the processes' gradients are averaged, never their losses
        for pack in packs:
            with state.team.pass_of(state.network, last=pack is packs[-1]):
                sums.append(pack_loss(state.network, pack.to(state.model.device), config))
                (sums[-1].total / share).backward()
    names = [field.name for field in fields(LossSums)]
    of_all = state.team.sum(torch.stack([sum_of(getattr(part, name).detach() for part in sums) for name in names]))
    return LossSums(**dict(zip(names, of_all / tokens, strict=True)))


def update(state: TrainState, loss: LossSums, config: TrainConfig) -> StepOutcome:
    """Clip, step and average; on the device, and there only where loss and gradient are finite.

    Loss and norm are those of all processes, so all of them step, or none. The rest is each one's own part.
    """
    gradients = [local(weight.grad) for weight in state.model.parameters() if weight.grad is not None]
    norm = state.team.norm(nn.utils.get_total_norm(gradients))
    scale = (config.optimizer.clip / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
    finite = (norm.isfinite() & loss.total.isfinite()).to(torch.float32)
    number, settings = state.progress.step + 1, config.optimizer
    warm = min(1.0, number / settings.warmup_steps) if settings.warmup_steps else 1.0
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * warm
    # the fused optimizer skips its update where found_inf is 1: the interface that GradScaler uses
    state.optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
    state.optimizer.found_inf = 1 - finite  # pyright: ignore[reportAttributeAccessIssue]
    state.optimizer.step()
    ema.update(state.average, state.model, ema.decay_at(number, config.ema), finite)
    return StepOutcome(loss=loss, gradient_norm=norm, finite=finite)


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of 0-d tensors."""
    return torch.stack(list(tensors)).sum()
