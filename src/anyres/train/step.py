"""One optimizer step: addressed randomness, the loss of its packs, the update."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from .. import noise
from ..flow.loss import direction_loss, flow_loss
from ..flow.path import path_named
from ..flow.time import training_times
from ..model.nit import NiT
from ..packing.pack import Pack
from ..shapes import Float, Int, Tensor
from . import ema
from .config import TrainConfig
from .state import TrainState


@dataclass(frozen=True, eq=False, kw_only=True)
class LossSums:
    """Losses summed over real tokens, on the device; divide by the step's tokens.

    Attributes:
        total: what is minimised.
        flow: the mean-square part.
        direction: the direction part, unweighted.
    """

    total: Float[Tensor, ""]
    flow: Float[Tensor, ""]
    direction: Float[Tensor, ""]


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Draws:
    """A pack's randomness.

    Attributes:
        t: time of each row.
        noise: ε of each token.
        labels: labels, some of them replaced by the null label.
    """

    t: Float[Tensor, "images"]
    noise: Float[Tensor, "tokens values"]
    labels: Int[Tensor, "images"]


def draw(pack: Pack, config: TrainConfig, *address: noise.Address) -> Draws:
    """The randomness of a pack, addressed, on the host; padding gets zero noise and t = 0.5."""
    layout = pack.layout
    real = (layout.tokens, config.model.token_values)
    t = torch.full((layout.shape.images,), 0.5)
    t[: layout.images] = training_times(noise.normal((layout.images,), *address, "time"), config.time)
    epsilon = torch.zeros(layout.shape.tokens, config.model.token_values)
    epsilon[: layout.tokens] = noise.normal(real, *address, "noise")
    labels = pack.labels.clone()
    dropped = noise.uniform((layout.images,), *address, "label") < config.label_dropout
    labels[: layout.images][dropped] = config.model.null_label
    return Draws(t=t, noise=epsilon, labels=labels)


def pack_loss(model: NiT, pack: Pack, draws: Draws, config: TrainConfig) -> LossSums:
    """The losses of a pack, summed over its real tokens; everything on the model's device."""
    layout = pack.layout
    point = path_named(config.path).sample(pack.latents, draws.noise, draws.t[layout.image_index])
    with autocast(config, layout.device):
        velocity = model(point.x_t, draws.t, draws.labels, layout)
    real = layout.is_real()
    flow = (flow_loss(velocity, point.velocity) * real).sum()
    direction = (direction_loss(velocity, point.velocity, config.model.patch_size**2) * real).sum()
    return LossSums(total=flow + config.direction_weight * direction, flow=flow.detach(), direction=direction.detach())


def backward(state: TrainState, packs: Sequence[Pack], config: TrainConfig) -> LossSums:
    """The gradient of the global sum over the global count of real tokens of consecutive packs, left in the weights.

    Returns:
        The step's losses, means over its real tokens. Nothing is read back from the device.
    """
    tokens = sum(pack.layout.tokens for pack in packs)
    state.optimizer.zero_grad(set_to_none=True)
    sums: list[LossSums] = []
    for i, pack in enumerate(packs):
        draws = draw(pack, config, config.seed, state.progress.step, i)
        pack, draws = to_device(pack, draws, state.model.device)
        sums.append(pack_loss(state.model, pack, draws, config))
        (sums[-1].total / tokens).backward()
    return LossSums(
        total=sum_of(part.total.detach() for part in sums) / tokens,
        flow=sum_of(part.flow for part in sums) / tokens,
        direction=sum_of(part.direction for part in sums) / tokens,
    )


def update(state: TrainState, loss: LossSums, config: TrainConfig) -> StepOutcome:
    """Clip, step and average; on the device, and there only where loss and gradient are finite."""
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip)
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


def to_device(pack: Pack, draws: Draws, device: torch.device) -> tuple[Pack, Draws]:
    """A pack and its randomness on the device."""
    if device.type == "cuda":  # page-locked memory is what lets the copies run beside the previous step
        pack = pack.pin_memory()
        draws = Draws(t=draws.t.pin_memory(), noise=draws.noise.pin_memory(), labels=draws.labels.pin_memory())
    moved = {name: getattr(draws, name).to(device, non_blocking=True) for name in ("t", "noise", "labels")}
    return pack.to(device, non_blocking=True), Draws(**moved)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager:
    """bfloat16 matrix products where the configuration asks for them."""
    if config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of 0-d tensors."""
    return torch.stack(list(tensors)).sum()
