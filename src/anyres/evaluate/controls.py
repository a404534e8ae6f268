"""Sets whose quality is known: real images held out, a made collapse and a made blur of them.

A metric that does not tell these apart proves nothing about other sets of as many images.
"""

import math

import numpy as np
from PIL import Image, ImageFilter

from .. import noise
from .figures import METRICS, SMALLER_IS_BETTER, figures
from .results import Column, Figures, Separation
from .sets import FeatureSet

BLUR = 0.02  # standard deviation of the made blur, in sides of the square of an image's area
LABELS_KEPT = 1 / 6  # of a made collapse


def blurred(pixels: np.ndarray) -> np.ndarray:
    """A picture (height, width, 3) uint8 without its fine detail: a Gaussian of 2% of its size."""
    radius = BLUR * math.sqrt(pixels.shape[0] * pixels.shape[1])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def columns(
    made: FeatureSet,
    training: FeatureSet,
    held_out: FeatureSet,
    blurs: FeatureSet,
    *,
    seed: int,
    whole: Figures | None = None,
) -> tuple[Column, ...]:
    """Made images and the controls, all of as many images, measured against the training images.

    Args:
        made: the images.
        training: what all are measured against.
        held_out: real images that are not among them.
        blurs: the same, blurred, in the same order.
        seed: of the choice of images, and of the intervals.
        whole: the figures of all made images by the same seed, where they are known.
    """
    count = min(len(made), len(held_out))
    chosen = np.sort(noise.generator(seed, "held out").permutation(len(held_out))[:count])
    collapse, what = _collapse(held_out, count, seed)
    if count == made.count:
        first = Column(name="made", what="all of them", figures=whole or figures(made, training, seed=seed))
    else:
        ours = made.take(np.sort(noise.generator(seed, "made").permutation(len(made))[:count]))
        what_made = f"{count:,} of {made.count:,}, at random"
        first = Column(name="made", what=what_made, figures=figures(ours, training, seed=seed))
    sets = (
        ("held-out", "real images that are not among the training images", held_out.take(chosen)),
        ("collapse", what, collapse),
        ("blur", f"the held-out images, blurred by a Gaussian of {BLUR:.0%} of their size", blurs.take(chosen)),
    )
    return first, *(
        Column(name=name, what=what, figures=figures(found, training, seed=seed)) for name, what, found in sets
    )


def separations(controls: tuple[Column, ...]) -> tuple[Separation, ...]:
    """Which metrics tell the held-out images from the collapse and from the blur."""
    by_name = {column.name: column.figures for column in controls}
    given = [name for name in METRICS if getattr(by_name["held-out"], name) is not None]
    return tuple(
        Separation(
            metric=name,
            collapse=_worse(by_name["collapse"], by_name["held-out"], name),
            blur=_worse(by_name["blur"], by_name["held-out"], name),
        )
        for name in given
    )


def _worse(a: Figures, b: Figures, metric: str) -> bool:
    """Whether a's interval lies wholly on the worse side of b's."""
    ours, other = getattr(a, metric), getattr(b, metric)
    return ours.low > other.high if metric in SMALLER_IS_BETTER else ours.high < other.low


def _collapse(held_out: FeatureSet, count: int, seed: int) -> tuple[FeatureSet, str]:
    """As many images, but of few labels; of few images where there is one label only."""
    rng = noise.generator(seed, "collapse")
    labels = sorted(set(held_out.labels))
    if len(labels) > 1:
        kept = set(rng.permutation(labels)[: max(1, round(LABELS_KEPT * len(labels)))].tolist())
        pool = np.flatnonzero([label in kept for label in held_out.labels])
        what = (
            f"held-out images of {len(kept)} of {len(labels)} labels ({', '.join(sorted(kept))}), each drawn as often"
        )
    else:
        pool = rng.permutation(len(held_out))[: max(1, len(held_out) // 10)]
        what = f"{len(pool)} of {len(held_out)} held-out images, each drawn as often"
    # whole rounds first, so that no image is drawn more than once before all are
    rounds = [rng.permutation(pool) for _ in range(math.ceil(count / len(pool)))]
    return held_out.take(np.concatenate(rounds)[:count]), f"{what} as needed for {count} images"
