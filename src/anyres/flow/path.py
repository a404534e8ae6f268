"""Paths between data (t = 0) and noise (t = 1): x_t = α(t)·x + σ(t)·ε."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from ..config import suggestion
from ..errors import ConfigError
from ..shapes import Float, Tensor

PathName = Literal["linear", "cosine"]


@dataclass(frozen=True, eq=False)
class PathSample:
    """A point of the path and its velocity there.

    Attributes:
        x_t: α(t)·x + σ(t)·ε.
        velocity: dx_t/dt = α'(t)·x + σ'(t)·ε, what the network learns.
    """

    x_t: Float[Tensor, "tokens values"]
    velocity: Float[Tensor, "tokens values"]


@dataclass(frozen=True)
class Coefficients:
    """α, σ and their derivatives at some t; tensors of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Path(ABC):
    """A path; subclasses say what α and σ are."""

    @abstractmethod
    def coefficients(self, t: Float[Tensor, "*shape"]) -> Coefficients:
        """α, σ and their derivatives at t."""

    def sample(
        self,
        x: Float[Tensor, "tokens values"],
        noise: Float[Tensor, "tokens values"],
        t: Float[Tensor, "tokens"],
    ) -> PathSample:
        """The point at t between data x and noise ε, and the velocity there.

        Args:
            x: data.
            noise: ε, standard normal.
            t: time of each token (the same for all tokens of an image).
        """
        c = self.coefficients(t[:, None])
        return PathSample(c.alpha * x + c.sigma * noise, c.d_alpha * x + c.d_sigma * noise)

    def velocity_given(
        self, x_t: Float[Tensor, "*shape"], data: Float[Tensor, "*shape"], t: float
    ) -> Float[Tensor, "*shape"]:
        """The velocity at x_t where the data are known: α'·x + σ'·ε with ε = (x_t − α·x)/σ; t > 0.

        Of arXiv 2210.02747 it is theorem 3. On the linear path this is (x_t − x)/t.
        """
        c = self.coefficients(torch.tensor(t, dtype=x_t.dtype, device=x_t.device))
        return c.d_alpha * data + c.d_sigma * (x_t - c.alpha * data) / c.sigma

    def score(self, x_t: Float[Tensor, "*shape"], velocity: Float[Tensor, "*shape"], t: float) -> Tensor:
        """∇ log p_t(x_t) = −E[ε | x_t]/σ, from the velocity; t > 0.

        With v = α'·x + σ'·ε and x_t = α·x + σ·ε: ε = (α·v − α'·x_t)/(α·σ' − α'·σ). On the linear path this is
        −(x_t + (1 − t)·v)/t.
        """
        c = self.coefficients(torch.tensor(t, dtype=x_t.dtype, device=x_t.device))
        noise = (c.alpha * velocity - c.d_alpha * x_t) / (c.alpha * c.d_sigma - c.d_alpha * c.sigma)
        return -noise / c.sigma


class LinearPath(Path):
    """x_t = (1 − t)·x + t·ε; velocity ε − x: the published choice."""

    def coefficients(self, t: Float[Tensor, "*shape"]) -> Coefficients:
        """α = 1 − t, σ = t."""
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)


class CosinePath(Path):
    """x_t = cos(πt/2)·x + sin(πt/2)·ε: constant variance for data of unit variance."""

    def coefficients(self, t: Float[Tensor, "*shape"]) -> Coefficients:
        """α = cos(πt/2), σ = sin(πt/2)."""
        half_pi = math.pi / 2
        cos, sin = torch.cos(half_pi * t), torch.sin(half_pi * t)
        return Coefficients(cos, sin, -half_pi * sin, half_pi * cos)


PATHS: dict[str, Path] = {"linear": LinearPath(), "cosine": CosinePath()}


def path_named(name: str) -> Path:
    """The path of this name.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in PATHS:
        raise ConfigError(
            f"got path {name!r}",
            wanted=f"one of {', '.join(PATHS)}",
            fix=suggestion(name, PATHS) or "use one of them",
        )
    return PATHS[name]
