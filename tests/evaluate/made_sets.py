"""Made features, sets of them, and folders of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anyres.evaluate.measuring import Measuring
from anyres.evaluate.pictures import Framing
from anyres.evaluate.reference import Reference, ReferencePlan, make_reference
from anyres.evaluate.sets import FeatureSet
from anyres.evaluate.sources import open_source
from anyres.grid import Size
from tests.evaluate.conftest import Colours
from tests.made import picture

SIZE = Size(16, 24)
SHARE = 0.4  # held out, unless a test says otherwise


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


def tinted(number: int, size: Size = SIZE) -> Image.Image:
    """A picture whose tint follows from its number, so that mean colours tell pictures apart."""
    pixels = np.asarray(picture(size, number)) // 2 + np.random.default_rng(number).integers(0, 128, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def picture_files(root: Path, numbers: Sequence[int], size: Size = SIZE) -> Path:
    """A folder of such pictures, named by their numbers."""
    root.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        tinted(number, size).save(root / f"{number:04d}.png")
    return root


def made_reference(
    images: Path, *, held_out: Path | None = None, share: float = SHARE, framing: Framing | None = None
) -> Reference:
    """A reference of pictures, by their colours."""
    measuring = Measuring(
        network=Colours(), device=torch.device("cpu"), framing=framing or Framing(), batch=7, workers=2, seed=0
    )
    apart = None if held_out is None else open_source(held_out)
    plan = ReferencePlan(source=open_source(images), held_out=apart, share=share, seed=0)
    return make_reference(plan, measuring, "colours")
