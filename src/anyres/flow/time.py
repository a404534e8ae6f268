"""Times of training, drawn once an image, and times of a solver's steps."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ..config import require
from ..shapes import Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class TimeShift:
    """Times moved towards noise for images of more tokens: t' = s·t/(1 + (s − 1)·t), s = (tokens/base)^power.

    More tokens show more of an image through the same noise: the error with which a plain image's value is known from n
    tokens goes with t/(1 − t)/√n. At power ½ that is the same at every size (arXiv 2403.03206, equation 23).

    Attributes:
        power: of the ratio of tokens; 0 moves nothing, ½ is the published one.
        base: tokens of an image whose times stay.
    """

    power: float = 0.0
    base: int = 256

    def __post_init__(self) -> None:
        require(0 <= self.power <= 2, f"time shift's power = {self.power}", "0 (none) to 2; 0.5 is the published one")
        require(self.base >= 1, f"time shift's base = {self.base} tokens", "at least 1")

    def factor(self, tokens: int) -> float:
        """The s of an image of so many tokens."""
        return (tokens / self.base) ** self.power

    def moved(self, t: Float[Tensor, "images"], tokens: Int[Tensor, "images"]) -> Float[Tensor, "images"]:
        """The times of images of so many tokens; 0 and 1 stay."""
        if self.power == 0:
            return t
        return _moved(t, (tokens.to(t.dtype) / self.base) ** self.power)


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """How training draws t.

    Attributes:
        distribution: "logit_normal" (t = sigmoid(mean + std·n), n standard normal; arXiv 2403.03206) or "uniform".
        mean: of the logit-normal's logit; positive means more noise.
        std: of the logit-normal's logit.
        shift: how times move with an image's size; the exported model's samplers take it over.
    """

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: TimeShift = field(default_factory=TimeShift)

    def __post_init__(self) -> None:
        require(self.distribution in _DISTRIBUTIONS, f"{self.distribution!r}", f"one of {', '.join(_DISTRIBUTIONS)}")
        require(self.std > 0, f"std = {self.std}", "more than 0")


def training_times(
    normal: Float[Tensor, "images"], tokens: Int[Tensor, "images"], config: TimeConfig
) -> Float[Tensor, "images"]:
    """Times in [0, 1] from standard normal draws, one an image, so that one kind of draw serves all distributions.

    Args:
        normal: the draws.
        tokens: of each image.
        config: the distribution, and how it moves with the tokens.
    """
    return config.shift.moved(_DISTRIBUTIONS[config.distribution](normal, config), tokens)


_DISTRIBUTIONS = {
    "logit_normal": lambda normal, config: torch.sigmoid(config.mean + config.std * normal),
    "uniform": lambda normal, _config: torch.special.ndtr(normal),  # Φ(n) of a normal n is uniform
}


def shifted_times(times: tuple[float, ...], factor: float) -> tuple[float, ...]:
    """A solver's times moved as `TimeShift` moves those of training; 0 and 1 stay."""
    if factor == 1:
        return times
    return tuple(_moved(t, factor) for t in times)


def _moved(t: Any, factor: Any) -> Any:
    """One time or many; with this denominator 1 stays exactly 1."""
    return factor * t / (factor * t + (1 - t))


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
