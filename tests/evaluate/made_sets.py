"""Made features, sets of them, and folders of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.evaluate.sets import FeatureSet
from anyres.grid import Size
from tests.made import picture


def normal(images: int, dim: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Features of a Gaussian of unit spread."""
    return np.random.default_rng(seed).standard_normal((images, dim)) + shift


def classes(images: int, number: int = 6, seed: int = 0) -> np.ndarray:
    """Probabilities of classes."""
    odds = np.exp(3 * normal(images, number, seed))
    return odds / odds.sum(axis=1, keepdims=True)


def feature_set(features: np.ndarray, *, labels: Sequence[str] | None = None, **parts) -> FeatureSet:
    """A set of images of 32 px, numbered, without labels and with no more than features, but for what is given."""
    images = len(features)
    given = {"sizes": np.full((images, 2), 32), "spatial": None, "probabilities": None, "count": images} | parts
    return FeatureSet(
        names=tuple(map(str, range(images))),
        labels=tuple(labels or ["unlabelled"] * images),
        features=features.astype(np.float32),
        **given,
    )


def tinted(number: int, size: Size = Size(16, 24)) -> Image.Image:
    """A picture whose tint follows from its number, so that mean colours tell pictures apart."""
    pixels = np.asarray(picture(size, number)) // 2 + np.random.default_rng(number).integers(0, 128, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def picture_files(root: Path, numbers: Sequence[int], size: Size = Size(16, 24)) -> Path:
    """A folder of such pictures, named by their numbers."""
    root.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        tinted(number, size).save(root / f"{number:04d}.png")
    return root
