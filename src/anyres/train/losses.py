"""A pack with its randomness, and its losses."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .. import noise
from ..flow.loss import alignment_loss, direction_loss, flow_loss
from ..flow.path import path_named
from ..flow.time import training_times
from ..packing.pack import Pack, PackLayout
from ..shapes import Bool, Float, Int, Num, Tensor
from .config import TrainConfig
from .groups import GroupSums, group_sums
from .precision import autocast


@dataclass(frozen=True, eq=False, kw_only=True)
class LossSums:
    """Losses summed over real tokens, on the device.

    Attributes:
        total: what is minimised; divide by the step's `loss_weight`. Its tokens are weighted so that an image counts by
            its tokens to `TrainConfig.loss_tokens_power`.
        flow: the mean-square part. It and the others are not weighted; divide by the step's tokens.
        direction: the direction part, unweighted.
        alignment: the alignment with a teacher, unweighted; 0 without one.
        groups: the mean-square part by noise level and size, and each group's tokens (`groups.group_sums`).
    """

    total: Float[Tensor, ""]
    flow: Float[Tensor, ""]
    direction: Float[Tensor, ""]
    alignment: Float[Tensor, ""]
    groups: GroupSums

    def each(self, change: Callable[[Tensor], Tensor]) -> "LossSums":
        """All of them, changed alike."""
        return LossSums(**{field.name: change(getattr(self, field.name)) for field in dataclasses.fields(self)})


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnPack:
    """A pack with its randomness.

    Attributes:
        layout: which token belongs to which image.
        latents: x of each token.
        noise: ε of each token, or the key by which the device draws it.
        t: time of each row.
        labels: labels, some of them replaced by the null label.
        real: True for the tokens of images, False for padding.
        teacher: a teacher's features of each token, where the step aligns with them.
    """

    layout: PackLayout
    latents: Float[Tensor, "tokens values"]
    noise: Float[Tensor, "tokens values"] | Int[Tensor, "2"]
    t: Float[Tensor, "images"]
    labels: Int[Tensor, "images"]
    real: Bool[Tensor, "tokens"]
    teacher: Num[Tensor, "tokens features"] | None = None

    def to(self, device: torch.device) -> "DrawnPack":
        """The pack on the device, without waiting for it."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> "DrawnPack":
        """The pack in page-locked memory, which is what lets copies run beside the previous step."""
        return self._each(lambda part: part.pin_memory())

    def clone(self) -> "DrawnPack":
        """The pack in memory of its own."""
        return self._each(lambda part: part.clone())

    def copy_(self, other: "DrawnPack") -> None:
        """Take over another pack of the same shape, in place, without waiting; `layout.grids` stays as it was."""
        for name in self._parts():
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)
        self.layout.copy_(other.layout)

    def epsilon(self) -> Float[Tensor, "tokens values"]:
        """The noise; what the device draws is in the padding, too."""
        if self.noise.is_floating_point():
            return self.noise
        from .kernels.normal import normal_of  # Triton is imported only where it is used

        return normal_of(self.noise, *self.latents.shape)

    def _each(self, change: Callable[[Any], Any]) -> "DrawnPack":
        parts = {name: change(getattr(self, name)) for name in self._parts()}
        return dataclasses.replace(self, layout=change(self.layout), **parts)

    def _parts(self) -> tuple[str, ...]:
        always = ("latents", "noise", "t", "labels", "real")
        return always if self.teacher is None else (*always, "teacher")


def draw(
    pack: Pack, config: TrainConfig, *address: noise.Address, dropout: float, on_device: bool = False
) -> DrawnPack:
    """Draw a pack's randomness, addressed, on the host; padding gets zero noise and t = 0.5.

    Args:
        pack: the images.
        config: how t is drawn.
        address: of the draws.
        dropout: probability that an image's label is replaced by the null label.
        on_device: leave the noise to a device that has Triton's kernels, which draws the same: a GPU does it in
            passing, and it would be most of the host's work.
    """
    layout, epsilon = pack.layout, noise.key(*address, "noise")
    real = (layout.tokens, config.model.token_values)
    t = torch.full((layout.shape.images,), 0.5)
    tokens = torch.tensor([grid.tokens for grid in layout.grids])
    t[: layout.images] = training_times(noise.normal((layout.images,), *address, "time"), tokens, config.time)
    if not on_device:
        epsilon = F.pad(noise.normal_of(epsilon, real), (0, 0, 0, layout.shape.tokens - layout.tokens))
    labels = pack.labels.clone()
    dropped = noise.uniform((layout.images,), *address, "label") < dropout
    labels[: layout.images][dropped] = config.model.null_label
    return DrawnPack(layout=layout, latents=pack.latents, noise=epsilon, t=t, labels=labels, real=layout.is_real())


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenLosses:
    """Losses of each token; zero in padding.

    Attributes:
        flow: the mean-square part.
        direction: the direction part, unweighted.
        alignment: the alignment with a teacher, unweighted; None where the pack carries no features.
    """

    flow: Float[Tensor, "tokens"]
    direction: Float[Tensor, "tokens"]
    alignment: Float[Tensor, "tokens"] | None


def token_losses(model: nn.Module, pack: DrawnPack, config: TrainConfig) -> TokenLosses:
    """The losses of a pack's tokens; everything on the model's device.

    Args:
        model: the network, or what exchanges its gradients around it.
        pack: on the model's device.
        config: the run's.
    """
    layout = pack.layout
    point = path_named(config.path).sample(pack.latents, pack.epsilon(), pack.t[layout.image_index])
    with autocast(config, layout.device):
        if pack.teacher is None:
            velocity, projection = model(point.x_t, pack.t, pack.labels, layout), None
        else:
            predicted = model(point.x_t, pack.t, pack.labels, layout, projection=True)
            velocity, projection = predicted.velocity, predicted.projection
    alignment = None
    if projection is not None and pack.teacher is not None:
        alignment = alignment_loss(projection, pack.teacher) * pack.real
    return TokenLosses(
        flow=flow_loss(velocity, point.velocity) * pack.real,
        direction=direction_loss(velocity, point.velocity, config.model.patch_size**2) * pack.real,
        alignment=alignment,
    )


def loss_weight(lengths: np.ndarray, config: TrainConfig) -> float:
    """What the images of a step weigh together in the loss; `LossSums.total` is divided by it.

    Args:
        lengths: tokens of each image of the step, in all processes.
        config: the run's.
    """
    return float((lengths.astype(np.float64) ** config.loss_tokens_power).sum())


def token_weights(layout: PackLayout, config: TrainConfig) -> Float[Tensor, "tokens"] | None:
    """What each token weighs in the loss, its image's tokens to the power less one; None where all weigh the same."""
    if config.loss_tokens_power == 1:
        return None
    tokens = layout.extents.prod(dim=1)
    return (tokens.float() ** (config.loss_tokens_power - 1))[layout.image_index]


def pack_loss(model: nn.Module, pack: DrawnPack, config: TrainConfig) -> LossSums:
    """The losses of a pack, summed over its real tokens.

    The alignment counts where the pack carries a teacher's features.
    """
    found = token_losses(model, pack, config)
    weight = token_weights(pack.layout, config)

    def sums(losses: Float[Tensor, "tokens"]) -> tuple[Tensor, Tensor]:
        """Of what is minimised, and as it is."""
        plain = losses.sum()
        return (plain if weight is None else (losses * weight).sum()), plain

    (total, flow), (of_direction, direction) = sums(found.flow), sums(found.direction)
    total, alignment = total + config.direction_weight * of_direction, torch.zeros_like(flow)
    if found.alignment is not None:
        assert config.teacher is not None, "features without a teacher"  # noqa: S101
        of_alignment, alignment = sums(found.alignment)
        total = total + config.teacher.weight * of_alignment
    return LossSums(
        total=total,
        flow=flow.detach(),
        direction=direction.detach(),
        alignment=alignment.detach(),
        groups=group_sums(found.flow.detach(), pack.real, pack.layout, pack.t),
    )
