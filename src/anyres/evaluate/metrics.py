"""Distances between sets of images, as functions of their features; everything in float64.

`InceptionScore` streams: a million images need no more memory than a thousand. `kernel_distance` and `neighbourhoods`
compare every image with every other, a block of rows at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .estimates import BOOTSTRAPS, GROUPS, Estimate, group_of, jackknifed, made_draws, mean, need, real_draws, widened

BLOCK = 1024  # rows of a matrix of all pairs that are in memory at once
NEIGHBOURS = 3  # k of precision, recall, density, coverage


def kernel_distance(
    made: np.ndarray,
    real: np.ndarray,
    *,
    seed: int = 0,
    stream: int = 0,
    bootstraps: int = BOOTSTRAPS,
    within_real: np.ndarray | None = None,
) -> Estimate:
    """KID: the unbiased estimate of the squared maximum mean discrepancy, kernel (x·y/dim + 1)³ (arXiv 1801.01401).

    Over all pairs, not over random subsets. Images of both sets are drawn anew for the replicates; pairs of an image
    with its own copy are left out, as pairs of an image with itself are, so that no draw is biased.

    Args:
        made: features (images, dim).
        real: features (images, dim) of the other set.
        seed: of the draws.
        stream: which draws of the made images.
        bootstraps: number of draws.
        within_real: what `kernel_within` gave for the real images with the same seed and number of draws.

    Raises:
        DataError: fewer than two images in a set.
    """
    need(min(len(made), len(real)), 2, "KID")
    of_made = _with_whole(made_draws(len(made), bootstraps, seed, stream))
    of_real = _with_whole(real_draws(len(real), bootstraps, seed))
    within = _mean_of_pairs(made, made, of_made, of_made, same=True)
    if within_real is None:
        within_real = kernel_within(real, seed=seed, bootstraps=bootstraps)
    found = within + within_real - 2 * _mean_of_pairs(made, real, of_made, of_real, same=False)
    return Estimate(value=float(found[0]), replicates=found[1:])


def kernel_within(real: np.ndarray, *, seed: int = 0, bootstraps: int = BOOTSTRAPS) -> np.ndarray:
    """The kernel's mean over pairs of real images, which is the same for every set that is measured against them.

    Args:
        real: features (images, dim).
        seed: of the draws.
        bootstraps: number of draws.

    Returns:
        Of all images, then of each draw.
    """
    draws = _with_whole(real_draws(len(real), bootstraps, seed))
    return _mean_of_pairs(real, real, draws, draws, same=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbourhoods:
    """How two sets cover each other, by the balls around images that reach to their k-th neighbours.

    The balls are those of the images at hand; replicates draw the images that are asked whether they are inside. Recall
    and coverage hang on single made images besides: theirs are wider by what a jackknife over groups of those says.

    Attributes:
        precision: share of the made images inside any ball of a real one (arXiv 1904.06991).
        recall: share of the real images inside any ball of a made one.
        density: mean number of balls of real images that a made one is in, over k (arXiv 2002.09797).
        coverage: share of the real images whose ball holds a made one.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def neighbourhoods(
    made: np.ndarray,
    real: np.ndarray,
    *,
    k: int = NEIGHBOURS,
    seed: int = 0,
    stream: int = 0,
    bootstraps: int = BOOTSTRAPS,
) -> Neighbourhoods:
    """Precision, recall, density and coverage; a point on a ball's border is inside.

    Args:
        made: features (images, dim).
        real: features (images, dim).
        k: which neighbour a ball reaches to.
        seed: of the draws.
        stream: which draws of the made images.
        bootstraps: number of draws.

    Raises:
        DataError: no more than k images in a set.
    """
    need(min(len(real), len(made)), k + 1, f"precision and recall with k = {k}")
    real, made = real.astype(np.float64), made.astype(np.float64)
    real_radii, made_radii = _radii(real, k), _radii(made, k)
    balls = np.zeros(len(made))  # of real images that each made one is in
    # by groups of made images: how many recall, or cover, a real one
    member = np.eye(GROUPS, dtype=np.float32)[group_of(len(made), seed)]
    recalled, covered = np.zeros((len(real), GROUPS)), np.zeros((len(real), GROUPS))
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = squared_distances(real[rows], made)
        inside = distances <= real_radii[rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.astype(np.float32) @ member
        recalled[rows] = (distances <= made_radii[None]).astype(np.float32) @ member
    of_made, of_real = made_draws(len(made), bootstraps, seed, stream), real_draws(len(real), bootstraps, seed)
    return Neighbourhoods(
        precision=mean(balls > 0, of_made),
        recall=_reached(recalled, of_real, seed, "recall", stream),
        density=mean(balls / k, of_made),
        coverage=_reached(covered, of_real, seed, "coverage", stream),
    )


def _reached(counts: np.ndarray, of_real: np.ndarray, seed: int, *address: str | int) -> Estimate:
    """The share of real images that any made one reaches, from counts (real, groups of made images)."""
    total = counts.sum(axis=1)
    left = [float((total > counts[:, group]).mean()) for group in range(GROUPS)]
    found = widened(mean(total > 0, of_real), left, seed, *address)
    return replace(found, replicates=found.replicates.clip(0, 1))  # it is a share


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
        self.images = 0

    @classmethod
    def restored(cls, state: Mapping[str, np.ndarray]) -> "InceptionScore":
        """From what `state` gave."""
        score = cls(len(state["sum"]), int(state["split"]))
        score._scores, score._sum = state["scores"].tolist(), state["sum"].copy()
        score._entropy, score._count, score.images = (
            float(state["entropy"]),
            int(state["count"]),
            int(state["images"]),
        )
        return score

    def state(self) -> dict[str, np.ndarray]:
        """All of it, to be kept."""
        numbers = {"split": self._split, "entropy": self._entropy, "count": self._count, "images": self.images}
        arrays = {name: np.array(value) for name, value in numbers.items()}
        return arrays | {"scores": np.array(self._scores, dtype=np.float64), "sum": self._sum.copy()}

    def add(self, probabilities: np.ndarray) -> None:
        """Take in class probabilities (images, classes)."""
        while len(probabilities):
            part = probabilities[: self._split - self._count].astype(np.float64)
            probabilities = probabilities[len(part) :]
            self._sum += part.sum(axis=0)
            self._entropy += float(_plogp(part).sum())
            self._count += len(part)
            self.images += len(part)
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

    @classmethod
    def estimate(
        cls, probabilities: np.ndarray, *, whole: "InceptionScore | None" = None, seed: int = 0, stream: int = 0
    ) -> Estimate:
        """The score with the error that the number of images leaves, by a jackknife over groups of them.

        Args:
            probabilities: (images, classes).
            whole: of all images, where `probabilities` holds only some of them.
            seed: of the replicates.
            stream: which replicates.
        """

        def of(rows: np.ndarray) -> InceptionScore:
            score = cls(rows.shape[1])
            score.add(rows)
            return score

        every = whole or of(probabilities)
        group = group_of(len(probabilities), seed)
        left = [of(probabilities[group != i]).value for i in range(GROUPS)]
        return jackknifed(every.value, left, math.sqrt(len(probabilities) / every.images), seed, "score", stream)

    def _of_split(self) -> float:
        # Σ p·log p over the images, less that of the mean
        marginal = self._sum / self._count
        return math.exp(self._entropy / self._count - float(_plogp(marginal).sum()))


def _plogp(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.where(p > 0, p, 1.0))


def _with_whole(draws: np.ndarray) -> np.ndarray:
    """Draws behind one that takes every image once: the estimate itself."""
    return np.concatenate([np.ones((1, draws.shape[1])), draws])


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
        radii[start : start + BLOCK] = np.partition(squared_distances(x[start : start + BLOCK], x), k, axis=1)[:, k]
    return radii


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each row of x to each of y."""
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)[None]
    return np.maximum(squares - 2 * x @ y.T, 0)
