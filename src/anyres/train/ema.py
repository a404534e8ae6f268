"""Exponential moving averages of the weights, with a fixed or a growing memory."""

import math

import torch
from torch import nn

from ..shapes import Float, Tensor
from .config import EmaConfig
from .distributed import local


def decay_at(step: int, config: EmaConfig) -> float:
    """The average's decay at a step, counted from 1.

    The power profile weighs the weights of step s by s^γ, whatever the run's length: the decay is
    (1 − 1/step)^(γ + 1) (arXiv 2312.02696, equation 127), zero at the first step.
    """
    if config.kind == "constant":
        return config.decay
    return (1 - 1 / step) ** (power_of_width(config.width) + 1)


def power_of_width(width: float) -> float:
    """The exponent γ of the profile s^γ on [0, 1] whose standard deviation is `width`.

    The variance of that profile is (γ + 1)/((γ + 2)²·(γ + 3)) (arXiv 2312.02696, equation 126); it falls with γ,
    so the root is found by bisection.
    """
    low, high = 0.0, 1.0 / width**2
    for _ in range(200):
        gamma = (low + high) / 2
        if math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) > width:
            low = gamma
        else:
            high = gamma
    return (low + high) / 2


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float, applied: Float[Tensor, ""]) -> None:
    """Average ← decay·average + (1 − decay)·weights, where the step was applied.

    Args:
        average: the module whose parameters are the average; of sharded weights each process averages its part.
        model: the trained module.
        decay: of this step.
        applied: 1 on the device where the optimizer stepped, else 0, so that nobody has to wait to know.
    """
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    # the rest of a model that LoRA changes stays as it is
    trained = [(local(mean), local(current)) for mean, current in pairs if current.requires_grad]
    means, currents = [mean for mean, _ in trained], [current for _, current in trained]
    weight = applied * (1 - decay)
    weights = [weight.to(mean.dtype) for mean in means]
    torch._foreach_lerp_(means, currents, weights)  # pyright: ignore[reportPrivateImportUsage]
