"""How often each image is drawn in an epoch, by its variant and its tokens; without chance in the long run."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .. import noise
from ..config import require
from ..errors import DataError

GOLDEN = (5**0.5 - 1) / 2  # multiples of it modulo 1 lie evenly, however many there are
BITS = 32  # of the fixed point that draws are counted in, so that no rounding makes one too many


@dataclass(frozen=True, kw_only=True)
class DrawsConfig:
    """How often an image is drawn in an epoch: its variant's number, by its tokens to a power."""

    native: float = 1.0
    """Draws an epoch of an image in its own shape: 2 is twice, 0.5 in every second epoch, 0 never."""
    square_256: float = 1.0
    """Of its centred square of 256 px."""
    square_512: float = 1.0
    """Of its centred square of 512 px."""
    reshaped: float = 1.0
    """Of each of its further versions (crops, canvases, reductions)."""
    tokens_power: float = 0.0
    """Draws are multiplied by an image's tokens to this power, and scaled so that their sum stays. At -1 an epoch holds
    as many tokens of a small image as of a large one."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name == "tokens_power":
                require(-2 <= value <= 2, f"draws.tokens_power = {value}", "-2 to 2; 0 is no difference")
            else:
                require(0 <= value <= 1000, f"draws.{name} = {value}", "0 (never) to 1000 draws an epoch")

    @property
    def is_once(self) -> bool:
        """Whether every image is drawn once an epoch."""
        return self == DrawsConfig()


def draws_of_variants(config: DrawsConfig, variants: Sequence[str]) -> np.ndarray:
    """The configuration's number for each image's variant; "reshaped-1" and the like are "reshaped".

    Raises:
        DataError: it is 0 for all of them.
    """
    names, number = np.unique(["reshaped" if v.startswith("reshaped") else v for v in variants], return_inverse=True)
    draws = np.array([getattr(config, name.replace("-", "_")) for name in names.tolist()])[number]
    if not draws.any():
        raise DataError(
            f"all {len(variants)} images are of variants that are never drawn: {', '.join(names.tolist())}",
            wanted="images to train on",
            fix="give one of their variants a number above 0, such as --packing.draws.native 1",
        )
    return draws


def expected_draws(of_variants: np.ndarray, lengths: np.ndarray, tokens_power: float) -> np.ndarray:
    """Mean draws an epoch of each image: its variant's, by its tokens to a power, with the sum of the variants'."""
    by_tokens = of_variants * (lengths / lengths.mean()) ** tokens_power
    return by_tokens * (of_variants.sum() / by_tokens.sum())


class Draws:
    """The images of an epoch, as a pure function of (seed, epoch).

    By the end of epoch k, counted from 1, image i has been drawn ⌊k·e_i + u_i⌋ times, e_i being its mean draws an epoch
    and u_i, which follows from the seed, uniform in [0, 1): systematic sampling along the epochs. So its mean over
    seeds is e_i in every epoch, no image is ever more than one draw ahead or behind, and 0.5 is every second epoch. The
    u_i of images of one e_i lie evenly, so that epochs are about equally long, too.

    Args:
        expected: e_i, mean draws an epoch of each image.
        seed: the run's.
    """

    def __init__(self, expected: np.ndarray, seed: int) -> None:
        rng = noise.generator(seed, "draws")
        order = rng.permutation(len(expected))
        order = order[np.argsort(expected[order], kind="stable")]  # images of like e_i, shuffled where it is the same
        start = np.empty(len(expected))
        start[order] = (rng.random() + GOLDEN * np.arange(len(expected))) % 1
        self._each, self._start = (np.floor(value * 2**BITS).astype(np.int64) for value in (expected, start))

    def of(self, epoch: int) -> np.ndarray:
        """Image numbers, sorted, each as often as it is drawn in an epoch, counted from 0; perhaps none."""
        before, after = ((self._start + k * self._each) >> BITS for k in (epoch, epoch + 1))
        return np.repeat(np.arange(len(self._each)), after - before)

    def at_most(self) -> np.ndarray:
        """Image numbers, each as often as it is drawn in any epoch at most."""
        return np.repeat(np.arange(len(self._each)), -(-self._each >> BITS))


def repeats(images: np.ndarray) -> np.ndarray:
    """Of each place in a list of image numbers: how often its image stands before it."""
    order, places = np.argsort(images, kind="stable"), np.arange(len(images))
    same = images[order][1:] == images[order][:-1]
    first = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, places))
    before = np.empty(len(images), dtype=np.int64)
    before[order] = places - first
    return before
