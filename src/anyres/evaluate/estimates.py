"""Estimates with their uncertainty: what a metric might have been with other images of the same kind.

Draws of the real images follow from the seed alone, those of the made ones from the seed and a stream: so two sets of
made images are compared against the same real ones by subtracting one's estimate from the other's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import noise
from ..errors import DataError

BOOTSTRAPS = 1000
GROUPS = 10  # of images, one left out at a time, where drawing them anew would take too long or be biased


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95% interval.

    Attributes:
        value: the estimate.
        low: its 2.5% quantile if the images were drawn anew.
        high: its 97.5% quantile.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
    """A value, and what it might have been with other images of the same kind.

    Attributes:
        value: the estimate.
        replicates: what it is when images are drawn anew, with replacement.
    """

    value: float
    replicates: np.ndarray

    @property
    def interval(self) -> Interval:
        """The value with the quantiles of its replicates."""
        low, high = np.quantile(self.replicates, [0.025, 0.975])
        return Interval(value=self.value, low=float(low), high=float(high))

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(value=self.value - other.value, replicates=self.replicates - other.replicates)


def made_draws(images: int, draws: int, seed: int, stream: int) -> np.ndarray:
    """How often each made image is drawn, (draws, images)."""
    return _draws(images, draws, noise.generator(seed, "made", stream))


def real_draws(images: int, draws: int, seed: int) -> np.ndarray:
    """How often each real image is drawn, (draws, images)."""
    return _draws(images, draws, noise.generator(seed, "real"))


def _draws(images: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn, (draws, images)."""
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)


def mean(values: np.ndarray, draws: np.ndarray) -> Estimate:
    """The mean of a number each image, by draws of the images."""
    values = values.astype(np.float64)
    return Estimate(value=float(values.mean()), replicates=draws @ values / len(values))


def share(chosen: np.ndarray, *, seed: int = 0, bootstraps: int = BOOTSTRAPS) -> Estimate:
    """The share of made images that are chosen, from a truth value each."""
    return mean(chosen, made_draws(len(chosen), bootstraps, seed, 0))


def group_of(images: int, seed: int) -> np.ndarray:
    """A group for each image, at random: in the order of images, labels may come in blocks or in turns."""
    return noise.generator(seed, "groups").permutation(images) % GROUPS


def jackknifed(value: float, left: Sequence[float], shrink: float, seed: int, *address: noise.Address) -> Estimate:
    """An estimate from its values without one group each; its error is that of the groups' images, times `shrink`."""
    error = math.sqrt((len(left) - 1) * float(np.var(left))) * shrink
    normal = noise.generator(seed, "jackknife", *address).standard_normal(BOOTSTRAPS)
    return Estimate(value=value, replicates=value + error * normal)


def widened(estimate: Estimate, left: Sequence[float], seed: int, *address: noise.Address) -> Estimate:
    """The estimate with a further error: that of another set, by a jackknife over groups of it."""
    error = math.sqrt((len(left) - 1) * float(np.var(left)))
    normal = noise.generator(seed, "widened", *address).standard_normal(len(estimate.replicates))
    return Estimate(value=estimate.value, replicates=estimate.replicates + error * normal)


def need(images: int, least: int, metric: str, fix: str = "use more images") -> None:
    """Refuse a metric that this many images cannot give.

    Raises:
        DataError: there are too few.
    """
    if images < least:
        raise DataError(
            f"got {images} images for {metric}",
            wanted=f"at least {least}",
            fix=fix,
        )
