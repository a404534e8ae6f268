"""Times of training, drawn once an image, and times of a solver's steps."""

from dataclasses import dataclass
from typing import Literal

import torch

from ..config import require
from ..shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """How training draws t.

    Attributes:
        distribution: "logit_normal" (t = sigmoid(mean + std·n), n standard normal; arXiv 2403.03206) or "uniform".
        mean: of the logit-normal's logit; positive means more noise.
        std: of the logit-normal's logit.
    """

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        require(self.distribution in _DISTRIBUTIONS, f"{self.distribution!r}", f"one of {', '.join(_DISTRIBUTIONS)}")
        require(self.std > 0, f"std = {self.std}", "more than 0")


def training_times(normal: Float[Tensor, "images"], config: TimeConfig) -> Float[Tensor, "images"]:
    """Times in [0, 1] from standard normal draws, one an image, so that one kind of draw serves all distributions."""
    return _DISTRIBUTIONS[config.distribution](normal, config)


_DISTRIBUTIONS = {
    "logit_normal": lambda normal, config: torch.sigmoid(config.mean + config.std * normal),
    "uniform": lambda normal, _config: torch.special.ndtr(normal),  # Φ(n) of a normal n is uniform
}


def solver_times(steps: int) -> tuple[float, ...]:
    """`steps` uniform steps from 1 to 0: `steps` + 1 times, in float64.

    Raises:
        ConfigError: fewer than one step.
    """
    require(steps >= 1, f"{steps} steps", "at least 1")
    return tuple(1 - step / steps for step in range(steps + 1))


def stochastic_times(steps: int, last: float = 0.04) -> tuple[float, ...]:
    """`steps` uniformly spaced times from 1 to `last`, then 0; the step to 0 is the one without noise.

    Raises:
        ConfigError: fewer than two times, or `last` outside (0, 1).
    """
    require(steps >= 2, f"{steps} steps", "at least 2 for a stochastic solver")
    require(0 < last < 1, f"last = {last}", "between 0 and 1")
    return (*(1 - (1 - last) * step / (steps - 1) for step in range(steps)), 0.0)
