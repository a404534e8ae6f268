"""The metrics of a set of images against real ones, as a whole and by group; and how near it comes to single images."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from .. import noise
from .estimates import Estimate, need, share
from .metrics import (
    BLOCK,
    NEIGHBOURS,
    InceptionScore,
    kernel_distance,
    kernel_within,
    neighbourhoods,
    squared_distances,
)
from .moments import Moments, frechet_estimate
from .results import Figures, Group, Memorisation, Neighbour
from .sets import FRECHET_IMAGES, FeatureSet

LEAST_IMAGES = 10  # below, no figure means anything
KID_IMAGES = 10_000  # of a set; it is unbiased, so more would only narrow an interval that is narrow already
MEMORISED = 0.01  # share of the held-out images that lie nearer to a training image than is called near
METRICS = tuple(field.name for field in fields(Figures) if field.name != "images")
SMALLER_IS_BETTER = ("kid", "frechet", "spatial_frechet")


def estimates(made: FeatureSet, real: FeatureSet, *, seed: int, stream: int = 0) -> dict[str, Estimate | None]:
    """The metrics by the names of `Figures`; None for those that these sets cannot give.

    Args:
        made: the images.
        real: what they are measured against.
        seed: of the draws behind the intervals.
        stream: which draws of the made images: sets that are to be compared take different ones.

    Raises:
        DataError: too few images.
    """
    need(min(len(made), len(real)), max(LEAST_IMAGES, NEIGHBOURS + 1), "an evaluation")
    draws = {"seed": seed, "stream": stream}
    places = neighbourhoods(made.features, real.features, **draws)
    return {
        "kid": kernel_distance(
            _at_most(made.features, seed),
            _at_most(real.features, seed),
            within_real=_within_real(real, seed),
            **draws,
        ),
        "frechet": _frechet(made, real, "features", "moments", **draws),
        # features that keep their place need images of one size
        "spatial_frechet": None
        if len(np.unique(np.concatenate([made.sizes, real.sizes]), axis=0)) > 1
        else _frechet(made, real, "spatial", "spatial_moments", **draws),
        "inception_score": None
        if made.probabilities is None
        else InceptionScore.estimate(made.probabilities, whole=made.score, **draws),
        "precision": places.precision,
        "recall": places.recall,
        "density": places.density,
        "coverage": places.coverage,
    }


def figures(made: FeatureSet, real: FeatureSet, *, seed: int) -> Figures:
    """The metrics with their intervals; see `estimates`."""
    found = {name: estimate and estimate.interval for name, estimate in estimates(made, real, seed=seed).items()}
    return Figures(images=made.count, **found)  # pyright: ignore[reportArgumentType] - the four that can be None may


@functools.lru_cache(maxsize=1)  # several sets are measured against one
def _within_real(real: FeatureSet, seed: int) -> np.ndarray:
    return kernel_within(_at_most(real.features, seed), seed=seed)


@functools.lru_cache(maxsize=2)  # of features, and of those that keep their place
def _moments(real: FeatureSet, values: str) -> Moments:
    return Moments.of(getattr(real, values))


def _at_most(features: np.ndarray, seed: int) -> np.ndarray:
    if len(features) <= KID_IMAGES:
        return features
    return features[noise.generator(seed, "kid").permutation(len(features))[:KID_IMAGES]]


def _frechet(
    made: FeatureSet, real: FeatureSet, values: str, moments: str, *, seed: int, stream: int
) -> Estimate | None:
    ours, theirs, known = getattr(made, values), getattr(real, values), getattr(real, moments)
    if min(made.count, real.count) < FRECHET_IMAGES or ours is None:
        return None
    if known is None:
        if theirs is None:
            return None
        known = _moments(real, values)
    return frechet_estimate(ours, known, whole=getattr(made, moments), seed=seed, stream=stream)


def groups(
    made: FeatureSet,
    training: FeatureSet,
    held_out: FeatureSet,
    name: Callable[[FeatureSet], list[str]],
    *,
    seed: int,
    order: Sequence[str] = (),
) -> tuple[Group, ...]:
    """The kernel distance by group, of made images and of held-out ones, against training images of the group.

    Args:
        made: the images.
        training: what they are measured against.
        held_out: real images, for comparison.
        name: names of the groups of a set's images.
        seed: of the draws.
        order: of the groups; by default that of their names.

    Returns:
        The groups that made images fall into; none where they all fall into one.
    """
    members = [name(found) for found in (made, training, held_out)]
    found: list[Group] = []
    for group in sorted(set(members[0]), key=lambda group: (order.index(group) if order else 0, group)):
        ours, real, other = (
            part.features[np.array([member == group for member in names], dtype=bool)]
            for part, names in zip((made, training, held_out), members, strict=True)
        )

        def distance(images: np.ndarray, real: np.ndarray = real):
            enough = min(len(images), len(real)) >= LEAST_IMAGES
            return kernel_distance(images, real, seed=seed).interval if enough else None

        found.append(
            Group(
                name=group,
                images=len(ours),
                reference_images=len(real),
                kid=distance(ours),
                held_out_kid=distance(other),
            )
        )
    return tuple(found) if len(found) > 1 else ()


def nearest(made: FeatureSet, training: FeatureSet, held_out: FeatureSet) -> tuple[Neighbour, ...]:
    """The training images nearest to made ones.

    Args:
        made: the images.
        training: the training images.
        held_out: real images that say which distances are usual.
    """
    distances, places = _nearest(made.features, training.features)
    usual = _nearest(held_out.features, training.features)[0]
    return tuple(
        Neighbour(
            made=made.names[i],
            training=training.names[place],
            distance=float(distance),
            typical=float((usual < distance).mean()),
        )
        for i, (distance, place) in enumerate(zip(distances, places, strict=True))
    )


def memorisation(made: FeatureSet, training: FeatureSet, held_out: FeatureSet, *, seed: int) -> Memorisation:
    """Whether made images lie nearer to training images than held-out ones do."""
    ours, usual = (_nearest(found.features, training.features)[0] for found in (made, held_out))
    near = ours < np.quantile(usual, MEMORISED)
    return Memorisation(
        share=share(near, seed=seed).interval, made=float(np.median(ours)), held_out=float(np.median(usual))
    )


def size_groups(found: FeatureSet) -> list[str]:
    """The side of the square of each image's area, in steps of 2."""

    def name(height: int, width: int) -> str:
        low = 2 ** int(math.log2(math.sqrt(height * width)))
        return f"{low:4d}–{2 * low} px"

    return [name(*size) for size in found.sizes.tolist()]


def _nearest(of: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each to its nearest, and which that is."""
    distances, places = np.empty(len(of)), np.empty(len(of), dtype=np.int64)
    wide = to.astype(np.float64)
    for start in range(0, len(of), BLOCK):
        found = squared_distances(of[start : start + BLOCK].astype(np.float64), wide)
        places[start : start + BLOCK] = found.argmin(axis=1)
        # not the least of those found, in which the squares cancel: a copy is at no distance
        apart = of[start : start + BLOCK] - wide[places[start : start + BLOCK]]
        distances[start : start + BLOCK] = np.linalg.norm(apart, axis=1)
    return distances, places
