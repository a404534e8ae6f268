"""The packs of an epoch, from (seed, epoch), and what a budget does to a dataset."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from .. import noise
from ..config import require
from ..errors import DataError
from ..grid import Cells
from .algorithms import Packs, check_budget, lpfhp, shuffled, shuffled_best_fit
from .draws import Draws, DrawsConfig
from .pack import PackShape

Algorithm = Literal["shuffled_best_fit", "lpfhp", "fixed"]

_ALGORITHMS: dict[str, Callable[[np.ndarray, int, np.random.Generator], Packs]] = {
    "shuffled_best_fit": shuffled_best_fit,
    "lpfhp": lpfhp,
}


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How images are packed."""

    budget: int
    """Tokens that a pack may hold."""
    algorithm: Algorithm = "shuffled_best_fit"
    """"shuffled_best_fit" mixes sizes in every pack; "lpfhp" is the published one; "fixed" takes the packs that were
    imported with the latents, in a new order every epoch."""
    oversize: Literal["error", "shrink"] = "error"
    """What to do with an image longer than the budget; "shrink" resamples its latent, an approximation."""
    draws: DrawsConfig = field(default_factory=DrawsConfig)
    """How often an image is drawn in an epoch, by its variant and its tokens."""

    def __post_init__(self) -> None:
        require(
            self.budget >= 1,
            f"a budget of {self.budget} tokens",
            "at least the longest image's tokens",
            "raise --packing.budget",
        )
        known = get_args(Algorithm)
        require(self.algorithm in known, f"algorithm {self.algorithm!r}", f"one of {', '.join(known)}")
        require(
            self.algorithm != "fixed" or self.draws.is_once,
            f"algorithm 'fixed' with {self.draws}",
            "each image as often as the fixed packs hold it",
            "leave --packing.draws out, or --packing.algorithm at its default",
        )


@dataclass(frozen=True, kw_only=True)
class PackingReport:
    """What packing a dataset at a budget gives.

    Attributes:
        budget: tokens that a pack may hold.
        algorithm: its name.
        packs: packs an epoch.
        efficiency: share of the packs' room that holds tokens.
        one_size_share: share of packs whose images all have one length.
        images_per_pack: mean.
        images_per_pack_std: spread between packs.
        shrunk: images longer than the budget.
    """

    budget: int
    algorithm: str
    packs: int
    efficiency: float
    one_size_share: float
    images_per_pack: float
    images_per_pack_std: float
    shrunk: int


class EpochPlanner:
    """New packs every epoch, as a pure function of (seed, epoch).

    Args:
        lengths: tokens of each image.
        config: budget and algorithm.
        seed: the run's.
        fixed: the packs of the algorithm "fixed".
        draws: how often each image is drawn; by default once an epoch.

    Raises:
        ConfigError: a budget below 1, or fixed packs that are missing or that another algorithm was given.
        DataError: no image, or an image or a fixed pack that the budget does not hold.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        config: PackingConfig,
        seed: int,
        fixed: Packs | None = None,
        draws: Draws | None = None,
    ) -> None:
        check_budget(lengths, config.budget)
        require(
            (fixed is None) == (config.algorithm != "fixed"),
            f"algorithm {config.algorithm!r} {'without' if fixed is None else 'with'} fixed packs",
            'fixed packs with the algorithm "fixed", and with no other',
        )
        self._lengths, self._config, self._seed, self._fixed, self._draws = lengths, config, seed, fixed, draws
        fullest = 0 if fixed is None else int(fixed.tokens(lengths).max())
        if fullest > config.budget:
            raise DataError(
                f"the fullest of the fixed packs has {fullest} tokens, more than the budget of {config.budget}",
                wanted=f"a budget of at least {fullest} tokens",
                fix=f"set --packing.budget {fullest}",
            )

    def packs(self, epoch: int) -> Packs:
        """The packs of an epoch, counted from 0; none where no image is drawn in it."""
        rng = noise.generator(self._seed, "packs", epoch)
        if self._fixed is not None:
            return shuffled(self._fixed, rng)
        pack = _ALGORITHMS[self._config.algorithm]
        if self._draws is None:
            return pack(self._lengths, self._config.budget, rng)
        drawn = self._draws.of(epoch)
        if len(drawn) == 0:
            return Packs(drawn, np.zeros(1, dtype=np.int64))
        of_draws = pack(self._lengths[drawn], self._config.budget, rng)
        return Packs(drawn[of_draws.images], of_draws.offsets)


def fit_to_budget(cells: np.ndarray, patch: int, config: PackingConfig, name_of: Callable[[int], str]) -> np.ndarray:
    """The cells (images, 2) that each image is trained at: its own, or a smaller grid where it is too long.

    Args:
        cells: (height, width) of each image, in cells.
        patch: cells a side of a token.
        config: budget, and what to do with longer images.
        name_of: row → the image's name, for the message.

    Raises:
        DataError: an image is longer than the budget, and the configuration does not say to shrink it.
    """
    tokens = (cells // patch).prod(axis=1, dtype=np.int64)
    long = np.flatnonzero(tokens > config.budget)
    if len(long) == 0:
        return cells
    if config.oversize == "error":
        worst = int(tokens.argmax())
        raise DataError(
            f"{len(long)} images are longer than the budget of {config.budget} tokens; the longest, "
            f"{name_of(worst)}, has {tokens[worst]}",
            wanted=f"a budget of at least {tokens[worst]} tokens",
            fix=f"set --packing.budget {tokens[worst]}, or shrink such images with --packing.oversize shrink",
        )
    fitted = cells.copy()
    for row in long.tolist():
        height, width = cells[row].tolist()
        small = shrunk_cells(Cells(height, width), patch, config.budget)
        fitted[row] = small.height, small.width
    return fitted


def shrunk_cells(cells: Cells, patch: int, budget: int) -> Cells:
    """The largest grid of about the same shape that fits the budget, in cells that the patch divides."""
    grid = cells.grid(patch)
    scale = math.sqrt(budget / grid.tokens)
    height = min(max(1, math.floor(grid.height * scale)), budget)
    width = min(max(1, math.floor(grid.width * scale)), budget // height)
    return Cells(height * patch, width * patch)


def report(lengths: np.ndarray, config: PackingConfig, seed: int = 0, *, fixed: Packs | None = None) -> PackingReport:
    """Pack one epoch and measure it; images longer than the budget count as cut to it."""
    shrunk = int((lengths > config.budget).sum())
    lengths = np.minimum(lengths, config.budget)
    packs = EpochPlanner(lengths, config, seed, fixed).packs(0)
    images = np.diff(packs.offsets)
    return PackingReport(
        budget=config.budget,
        algorithm=config.algorithm,
        packs=len(packs),
        efficiency=packs.efficiency(lengths, config.budget),
        one_size_share=packs.one_size_share(lengths),
        images_per_pack=float(images.mean()),
        images_per_pack_std=float(images.std()),
        shrunk=shrunk,
    )


def pack_shape(lengths: np.ndarray, budget: int) -> PackShape:
    """One static shape that fits every pack of every epoch; tokens are rounded up to a multiple of 128.

    Args:
        lengths: tokens of the images that an epoch has at most.
        budget: tokens that a pack may hold.
    """
    tokens = -(-budget // 128) * 128
    most_images = int(np.searchsorted(np.cumsum(np.sort(lengths)), budget, side="right"))  # the shortest together
    return PackShape.fitting(tokens, most_images, int(lengths.max()))
