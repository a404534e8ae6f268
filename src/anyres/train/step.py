"""One optimizer step: addressed randomness, the loss of its packs, the update."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import noise
from ..flow.loss import direction_loss, flow_loss
from ..flow.path import path_named
from ..flow.time import training_times
from ..model.nit import NiT
from ..packing.pack import Pack, PackLayout
from ..shapes import Float, Int, Tensor
from . import ema
from .config import TrainConfig
from .precision import autocast
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
class DrawnPack:
    """A pack with its randomness.

    Attributes:
        layout: which token belongs to which image.
        latents: x of each token.
        noise: ε of each token.
        t: time of each row.
        labels: labels, some of them replaced by the null label.
    """

    layout: PackLayout
    latents: Float[Tensor, "tokens values"]
    noise: Float[Tensor, "tokens values"]
    t: Float[Tensor, "images"]
    labels: Int[Tensor, "images"]

    def to(self, device: torch.device) -> "DrawnPack":
        """The pack on the device, without waiting for it."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> "DrawnPack":
        """The pack in page-locked memory, which is what lets copies run beside the previous step."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Any], Any]) -> "DrawnPack":
        return DrawnPack(
            layout=change(self.layout),
            latents=change(self.latents),
            noise=change(self.noise),
            t=change(self.t),
            labels=change(self.labels),
        )


def draw(pack: Pack, config: TrainConfig, *address: noise.Address, dropout: float) -> DrawnPack:
    """Draw a pack's randomness, addressed, on the host; padding gets zero noise and t = 0.5.

    Args:
        pack: the images.
        config: how t is drawn.
        address: of the draws.
        dropout: probability that an image's label is replaced by the null label.
    """
    layout = pack.layout
    real = (layout.tokens, config.model.token_values)
    t = torch.full((layout.shape.images,), 0.5)
    t[: layout.images] = training_times(noise.normal((layout.images,), *address, "time"), config.time)
    epsilon = torch.zeros(layout.shape.tokens, config.model.token_values)
    epsilon[: layout.tokens] = noise.normal(real, *address, "noise")
    labels = pack.labels.clone()
    dropped = noise.uniform((layout.images,), *address, "label") < dropout
    labels[: layout.images][dropped] = config.model.null_label
    return DrawnPack(layout=layout, latents=pack.latents, noise=epsilon, t=t, labels=labels)


def pack_loss(model: NiT, pack: DrawnPack, config: TrainConfig) -> LossSums:
    """The losses of a pack, summed over its real tokens; everything on the model's device."""
    layout = pack.layout
    point = path_named(config.path).sample(pack.latents, pack.noise, pack.t[layout.image_index])
    with autocast(config, layout.device):
        velocity = model(point.x_t, pack.t, pack.labels, layout)
    real = layout.is_real()
    flow = (flow_loss(velocity, point.velocity) * real).sum()
    direction = (direction_loss(velocity, point.velocity, config.model.patch_size**2) * real).sum()
    return LossSums(total=flow + config.direction_weight * direction, flow=flow.detach(), direction=direction.detach())


def backward(state: TrainState, packs: Sequence[DrawnPack], config: TrainConfig) -> LossSums:
    """The gradient of the global sum over the global count of real tokens of consecutive packs, left in the weights.

    Returns:
        The step's losses, means over its real tokens. Nothing is read back from the device.
    """
    tokens = sum(pack.layout.tokens for pack in packs)
    state.optimizer.zero_grad(set_to_none=True)
    sums: list[LossSums] = []
    for pack in packs:
        sums.append(pack_loss(state.model, pack.to(state.model.device), config))
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


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of 0-d tensors."""
    return torch.stack(list(tensors)).sum()
