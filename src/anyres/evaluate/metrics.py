"""Distances between sets of images, as functions of their features; everything in float64.

`Moments`, `frechet_distance` and `InceptionScore` stream: a million images need no more memory than a thousand.
`kernel_distance` and `neighbourhoods` compare every image with every other, a block of rows at a time.
"""

import math
from dataclasses import dataclass

import numpy as np

from .. import noise
from ..errors import DataError

BLOCK = 1024  # rows of a matrix of all pairs that are in memory at once
NEIGHBOURS = 3  # k of precision, recall, density, coverage
BOOTSTRAPS = 1000


class Moments:
    """Mean and covariance of features, gathered batch by batch.

    Args:
        dim: of the features.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self._scatter = np.zeros((dim, dim))  # Σ (x − mean)(x − mean)ᵀ

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

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, (dim, dim).

        Raises:
            DataError: fewer than two images.
        """
        need(self.count, 2, "a covariance")
        return self._scatter / (self.count - 1)


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


def frechet_distance(a: Moments, b: Moments) -> float:
    """The Fréchet distance of two Gaussians, squared: FID where the features are Inception's (arXiv 1706.08500).

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2·tr (Σ_a·Σ_b)^½. The trace of the root is that of the symmetric
    (Σ_a^½·Σ_b·Σ_a^½)^½, whose eigenvalues are real and not negative also where there are fewer images than features.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    return float(np.square(a.mean - b.mean).sum() + traces)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with a bootstrap interval.

    Attributes:
        value: the estimate.
        low: its 2.5% quantile when the images are drawn anew, with replacement.
        high: its 97.5% quantile.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def kernel_distance(a: np.ndarray, b: np.ndarray, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> Interval:
    """KID: the unbiased estimate of the squared maximum mean discrepancy, kernel (x·y/dim + 1)³ (arXiv 1801.01401).

    Over all pairs, not over random subsets. Images of both sets are drawn anew for the interval; pairs of an image with
    its own copy are left out, as pairs of an image with itself are, so that no draw is biased.

    Args:
        a: features (images, dim).
        b: features (images, dim) of the other set.
        bootstraps: draws for the interval.
        seed: of the draws.

    Raises:
        DataError: fewer than two images in a set.
    """
    need(min(len(a), len(b)), 2, "KID")
    rng = noise.generator(seed, "kernel_distance")
    # row 0 counts every image once: the estimate itself
    counts = [np.concatenate([np.ones((1, len(x))), _draws(len(x), bootstraps, rng)]) for x in (a, b)]
    within = [_mean_of_pairs(x, x, w, w, same=True) for x, w in zip((a, b), counts, strict=True)]
    found = within[0] + within[1] - 2 * _mean_of_pairs(a, b, *counts, same=False)
    low, high = np.quantile(found[1:], [0.025, 0.975]) if bootstraps else (math.nan, math.nan)
    return Interval(value=float(found[0]), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Neighbourhoods:
    """How two sets cover each other, by the balls around images that reach to their k-th neighbours.

    Attributes:
        precision: share of the made images inside any ball of a real one (arXiv 1904.06991).
        recall: share of the real images inside any ball of a made one.
        density: mean number of balls of real images that a made one is in, over k (arXiv 2002.09797).
        coverage: share of the real images whose ball holds a made one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: np.ndarray, made: np.ndarray, *, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Precision, recall, density and coverage; a point on a ball's border is inside.

    Args:
        real: features (images, dim).
        made: features (images, dim).
        k: which neighbour a ball reaches to.

    Raises:
        DataError: no more than k images in a set.
    """
    need(min(len(real), len(made)), k + 1, f"precision and recall with k = {k}")
    real, made = real.astype(np.float64), made.astype(np.float64)
    real_radii, made_radii = _radii(real, k), _radii(made, k)
    balls = np.zeros(len(made))  # of real images that each made one is in
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = _squared_distances(real[rows], made)
        inside = distances <= real_radii[rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances <= made_radii[None]).any(axis=1)
    return Neighbourhoods(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


class InceptionScore:
    """exp of the mean KL divergence between each image's classes and those of all (arXiv 1606.03498).

    Gathered batch by batch; the score is the mean over consecutive splits, as ADM's evaluator takes it.

    Args:
        classes: number of classes.
        split: images of a split; a last, shorter one counts like the others.
    """

    def __init__(self, classes: int, split: int = 5000) -> None:
        self._split, self._scores = split, list[float]()
        self._sum, self._entropy, self._count = np.zeros(classes), 0.0, 0

    def add(self, probabilities: np.ndarray) -> None:
        """Take in class probabilities (images, classes)."""
        while len(probabilities):
            part = probabilities[: self._split - self._count].astype(np.float64)
            probabilities = probabilities[len(part) :]
            self._sum += part.sum(axis=0)
            self._entropy += float(_plogp(part).sum())
            self._count += len(part)
            if self._count == self._split:
                self._scores.append(self._of_split())
                self._sum, self._entropy, self._count = np.zeros_like(self._sum), 0.0, 0

    @property
    def value(self) -> float:
        """The score.

        Raises:
            DataError: no image was taken in.
        """
        scores = [*self._scores, self._of_split()] if self._count else self._scores
        need(len(scores), 1, "an Inception Score")
        return float(np.mean(scores))

    def _of_split(self) -> float:
        # Σ p·log p over the images, less that of the mean
        marginal = self._sum / self._count
        return math.exp(self._entropy / self._count - float(_plogp(marginal).sum()))


def _plogp(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1.0))


def _draws(images: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn, (draws, images)."""
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)


def _mean_of_pairs(x: np.ndarray, y: np.ndarray, wx: np.ndarray, wy: np.ndarray, *, same: bool) -> np.ndarray:
    """The mean of the kernel over pairs, each counted as often as both are drawn, for each row of counts."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    total = np.zeros(len(wx))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0
        total += ((wx[:, rows] @ kernel) * wy).sum(axis=1)
    pairs = wx.sum(axis=1) * wy.sum(axis=1) - ((wx * wy).sum(axis=1) if same else 0)
    return total / pairs


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour."""
    radii = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        # the nearest is the row itself
        radii[start : start + BLOCK] = np.partition(_squared_distances(x[start : start + BLOCK], x), k, axis=1)[:, k]
    return radii


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None]
    return np.maximum(squares - 2 * x @ y.T, 0)
