"""Mean and covariance of features, as a stream, and the Fréchet distance between two of them; in float64."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .estimates import GROUPS, Estimate, group_of, jackknifed, need


class Moments:
    """Mean and covariance of features, gathered batch by batch.

    Args:
        dim: of the features.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # Σ (x − mean)(x − mean)ᵀ

    @classmethod
    def known(cls, mean: np.ndarray, covariance: np.ndarray) -> "Moments":
        """From a mean (dim,) and an unbiased covariance (dim, dim) that somebody else has computed."""
        return cls.restored({"count": np.array(2), "mean": mean, "scatter": covariance})

    @classmethod
    def restored(cls, state: Mapping[str, np.ndarray]) -> "Moments":
        """From what `state` gave."""
        moments = cls(len(state["mean"]))
        moments.count, moments.mean = int(state["count"]), state["mean"].astype(np.float64)
        moments._scatter = state["scatter"].astype(np.float64)
        return moments

    def state(self) -> dict[str, np.ndarray]:
        """All of it, to be kept."""
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter.copy()}

    def add(self, features: np.ndarray) -> None:
        """Take in features (images, dim)."""
        batch = Moments(len(self.mean))
        values = features.astype(np.float64)
        batch.count, batch.mean = len(values), values.mean(axis=0)
        centred = values - batch.mean
        batch._scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: "Moments") -> None:
        """Take in what another has gathered, as if it had been gathered here (Chan et al. 1983)."""
        count = self.count + other.count
        if count == 0:
            return
        shift = other.mean - self.mean
        self._scatter += other._scatter + np.outer(shift, shift) * (self.count * other.count / count)
        self.mean = self.mean + shift * (other.count / count)
        self.count = count

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Of features (images, dim)."""
        moments = cls(features.shape[1])
        moments.add(features)
        return moments

    @classmethod
    def merged(cls, parts: Sequence["Moments"]) -> "Moments":
        """Of several sets together."""
        moments = cls(len(parts[0].mean))
        for part in parts:
            moments.merge(part)
        return moments

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, (dim, dim).

        Raises:
            DataError: fewer than two images.
        """
        need(self.count, 2, "a covariance")
        return self._scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance of two Gaussians, squared: FID where the features are Inception's (arXiv 1706.08500).

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2·tr (Σ_a·Σ_b)^½. The trace of the root is that of the symmetric
    (Σ_b^½·Σ_a·Σ_b^½)^½, whose eigenvalues are real and not negative also where there are fewer images than features.
    """
    return _frechet_distances([a], b)[0]


def frechet_estimate(
    made: np.ndarray, real: Moments, *, whole: Moments | None = None, seed: int = 0, stream: int = 0
) -> Estimate:
    """The Fréchet distance with the error that the number of made images leaves, by a jackknife over groups of them.

    Args:
        made: features (images, dim).
        real: of the real images, taken as exact.
        whole: of all made images, where `made` holds only some of them.
        seed: of the replicates.
        stream: which replicates.
    """
    group = group_of(len(made), seed)
    groups = [Moments.of(made[group == i]) for i in range(GROUPS)]
    every = whole or Moments.merged(groups)
    values = _frechet_distances([every, *(Moments.merged(_without(groups, i)) for i in range(GROUPS))], real)
    return jackknifed(values[0], values[1:], math.sqrt(len(made) / every.count), seed, "frechet", stream)


def _without(parts: Sequence[Moments], left_out: int) -> list[Moments]:
    return [part for i, part in enumerate(parts) if i != left_out]


def _frechet_distances(each: Sequence[Moments], b: Moments) -> list[float]:
    values, vectors = np.linalg.eigh(b.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    found = []
    for a in each:
        inner = np.linalg.eigvalsh(root @ a.covariance @ root)
        traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
        found.append(float(np.square(a.mean - b.mean).sum() + traces))
    return found
