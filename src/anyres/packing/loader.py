"""Packs of latents for training: an endless stream that can start anywhere."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F

from .. import noise
from ..grid import Cells, Grid, patchify
from ..latents.autoencoder import LatentScaling
from ..shapes import Num, Tensor
from .algorithms import Packs
from .dealing import Share, deal, even_packs
from .draws import Draws, draws_of_variants, expected_draws, repeats
from .pack import Pack, PackLayout
from .plan import EpochPlanner, PackingConfig, fit_to_budget, pack_shape

WHOLE = Share()
WORKERS = 2  # threads that make packs; more wait for each other, since each has to hold Python's lock again and again
AHEAD = 8  # packs made before they are asked for

T = TypeVar("T")
Extent = TypeVar("Extent", Cells, Grid)


@runtime_checkable
class Latents(Protocol):
    """What the loader asks of a dataset; `anyres.latents.format.LatentDataset` is one."""

    @property
    def labels(self) -> np.ndarray:
        """Class number of each row."""
        ...

    @property
    def cells(self) -> np.ndarray:
        """Each row's (height, width), in cells."""
        ...

    @property
    def sources(self) -> Sequence[str]:
        """Name of each row's image."""
        ...

    @property
    def variants(self) -> Sequence[str]:
        """Each row's variant; asked for only where `PackingConfig.draws` makes a difference."""
        ...

    @property
    def scaling(self) -> LatentScaling:
        """From stored latents to those that the network sees."""
        ...

    def views(self, indices: np.ndarray, flipped: np.ndarray) -> list[Tensor]:
        """Latents of rows, (cells, channels), float16, as they are stored; nothing may write to them."""
        ...

    def lengths(self, patch: int) -> np.ndarray:
        """Tokens of each row; raises where the patch does not divide one."""
        ...


@runtime_checkable
class Features(Protocol):
    """A teacher's features of a dataset's rows; `anyres.latents.features.TeacherFeatures` is one."""

    def views(self, indices: np.ndarray, flipped: np.ndarray) -> list[Tensor]:
        """Features of each token of rows, (tokens, features), as they are stored; nothing may write to them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the stream of packs, which runs epoch after epoch.

    Attributes:
        epoch: counted from 0.
        pack: the epoch's pack, counted from 0.
    """

    epoch: int
    pack: int


class PackLoader:
    """Packs of some rows of a dataset, new ones every epoch, each a pure function of (seed, epoch, number).

    Args:
        dataset: the latents.
        rows: which rows of it.
        patch: cells a side of a token.
        packing: budget, algorithm, and how often each row is drawn in an epoch.
        seed: of the order and of the flips.
        flip: use either flip of an image, at random, and the other one when it is drawn again in an epoch; otherwise
            the image as it is.
        one_shape: pad every pack to one static shape that fits all, as a recorded step wants it.
        fixed: the packs of these rows, for the algorithm "fixed".
        features: a teacher's, one a token of this patch, for `features`.

    Raises:
        DataError: the patch does not divide an image, an image or a fixed pack is longer than the budget, or no row is
            ever drawn.

    Attributes:
        lengths: tokens of each row that is drawn.
        shrunk: rows of them that were longer than the budget.
        left_out: rows whose variant is never drawn.
    """

    def __init__(
        self,
        dataset: Latents,
        *,
        rows: np.ndarray,
        patch: int,
        packing: PackingConfig,
        seed: int,
        flip: bool = True,
        one_shape: bool = False,
        fixed: Packs | None = None,
        features: Features | None = None,
    ) -> None:
        dataset.lengths(patch)  # refuses a patch that does not divide a grid
        of_variants, self.left_out = None, 0
        if not packing.draws.is_once:
            of_variants = draws_of_variants(packing.draws, [dataset.variants[int(row)] for row in rows])
            kept = of_variants > 0
            rows, of_variants, self.left_out = rows[kept], of_variants[kept], int((~kept).sum())
        own = dataset.cells[rows]
        self._dataset, self._rows, self._patch, self._seed = dataset, rows, patch, seed
        self._flip, self._features, self._scaling = flip, features, dataset.scaling.of_tokens(patch)
        self._cells = fit_to_budget(own, patch, packing, lambda row: dataset.sources[int(rows[row])])
        self.shrunk = int((self._cells != own).any(axis=1).sum())
        self.lengths = (self._cells // patch).prod(axis=1, dtype=np.int64)
        most, draws = self.lengths, None
        if of_variants is not None:
            draws = Draws(expected_draws(of_variants, self.lengths, packing.draws.tokens_power), seed)
            most = self.lengths[draws.at_most()]
        self._shape = pack_shape(most, packing.budget) if one_shape else None
        self._planner = EpochPlanner(self.lengths, packing, seed, fixed, draws)
        self._budget, self._as_given = packing.budget, fixed is not None
        self._plans: dict[int, _Plan] = {}
        self._lock = threading.Lock()

    def packs_in(self, epoch: int) -> int:
        """Number of packs of an epoch."""
        return len(self._plan(epoch).packs)

    def pack(self, epoch: int, number: int) -> Pack:
        """A pack, on the host."""
        return self._made(self._images(Position(epoch=epoch, pack=number)))

    def lengths_of(self, position: Position, packs: int) -> np.ndarray:
        """Tokens of each image of some consecutive packs."""
        return np.concatenate([self.lengths[self._images(place).numbers] for place in self._places(position, packs)])

    def features(self, pack: Pack) -> Num[Tensor, "tokens features"]:
        """The teacher's features of a pack's tokens, as they are stored; zero in padding."""
        assert self._features is not None, "the loader was given none"  # noqa: S101
        rows, layout = np.array(pack.indices), pack.layout
        own, used = self._dataset.cells[rows] // self._patch, layout.extents[: layout.images].numpy()
        return _joined(_fitted(self._features.views(rows, np.array(pack.flipped)), own, used, Grid), layout)

    def advance(self, position: Position, packs: int) -> Position:
        """The position some packs further."""
        epoch, pack = position.epoch, position.pack + packs
        while pack >= (inside := self.packs_in(epoch)):
            epoch, pack = epoch + 1, pack - inside
        return Position(epoch=epoch, pack=pack)

    def stream(
        self, position: Position, finish: Callable[[Pack, int], T], *, share: Share = WHOLE, workers: int = WORKERS
    ) -> Generator[T, None, None]:
        """The packs from a position on, without end, made ahead in threads that end with the iterator.

        The packs of a step, where it has several, are made even (`even_packs`), whatever the number of processes;
        fixed ones stay as they are.

        Args:
            position: the first pack.
            finish: what to make of a pack, in the thread too, from the pack and its number in this stream.
            share: which of the packs to make.
            workers: threads. The result does not depend on them.
        """
        # one core each (torch's setting is a thread's own): more would fight with a network that trains on the CPU
        pool = ThreadPoolExecutor(workers, thread_name_prefix="packs", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[T]] = deque()
        place, number, planned = position, 0, 0
        try:
            while True:
                while len(waiting) < AHEAD:
                    if planned != place.epoch + 1:  # the next epoch is planned while this one runs, by one thread
                        planned = place.epoch + 1
                        pool.submit(self._plan, planned)
                    # it begins before the packs that wait for it, so that there is always a thread for it
                    dealt = pool.submit(self._dealt, place, share)
                    for mine in range(share.packs_per_step // share.ranks):
                        waiting.append(pool.submit(self._finished, dealt, mine, number, finish))
                    place, number = self.advance(place, share.packs_per_step), number + share.packs_per_step
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finished(self, dealt: "Future[_Hand]", mine: int, first: int, finish: Callable[[Pack, int], T]) -> T:
        of_step, images = dealt.result()[mine]
        return finish(self._made(images), first + of_step)

    def _dealt(self, position: Position, share: Share) -> "_Hand":
        """The packs of the step at a position that the share holds, each with its number in the step."""
        packs = [self._images(place) for place in self._places(position, share.packs_per_step)]
        together = _Images.joined(packs)
        lengths = self.lengths[together.numbers]
        each = np.split(np.arange(len(lengths)), np.cumsum([len(images.numbers) for images in packs])[:-1])
        even = each if self._as_given else even_packs(each, lengths, share.cost, self._budget)
        mine = deal([float(share.cost(lengths[members]).sum()) for members in even], share.ranks)[share.rank]
        return [(number, together.some(even[number])) for number in mine]

    def _places(self, position: Position, packs: int) -> list[Position]:
        return [self.advance(position, number) for number in range(packs)]

    def _images(self, place: Position) -> "_Images":
        plan = self._plan(place.epoch)
        return _Images(plan.packs[place.pack], plan.flips[slice(*plan.packs.offsets[place.pack : place.pack + 2])])

    def _made(self, of_pack: "_Images") -> Pack:
        rows, cells = self._rows[of_pack.numbers], self._cells[of_pack.numbers]
        layout = PackLayout.from_grids([Grid(*sides) for sides in (cells // self._patch).tolist()], self._shape)
        parts = _fitted(self._dataset.views(rows, of_pack.flips), self._dataset.cells[rows], cells, Cells)
        if self._patch > 1:
            parts = [patchify(p, Cells(*c), self._patch) for p, c in zip(parts, cells.tolist(), strict=True)]
        latents = self._scaling.to_model(_joined(parts, layout))
        latents[layout.tokens :] = 0
        labels = torch.zeros(layout.shape.images, dtype=torch.int64)
        labels[: layout.images] = torch.from_numpy(self._dataset.labels[rows].astype(np.int64))
        return Pack(
            layout=layout,
            latents=latents,
            labels=labels,
            indices=tuple(rows.tolist()),
            flipped=tuple(of_pack.flips.tolist()),
        )

    def _plan(self, epoch: int) -> "_Plan":
        known = self._plans.get(epoch)  # without the lock, which is held for long while another epoch is planned
        if known is not None:
            return known
        with self._lock:
            if epoch not in self._plans:
                flips = noise.generator(self._seed, "flips", epoch).random(len(self._rows)) < 0.5
                packs = self._planner.packs(epoch)
                flips = flips[packs.images] ^ (repeats(packs.images) % 2 == 1)
                plan = _Plan(packs, flips & self._flip)
                # the neighbours stay: the consumer lags behind the threads, which plan one epoch ahead
                self._plans = {old: self._plans[old] for old in self._plans if abs(old - epoch) <= 2} | {epoch: plan}
            return self._plans[epoch]


@dataclass(frozen=True, eq=False)
class _Plan:
    """The packs of an epoch, and whether each image of `packs.images` is flipped."""

    packs: Packs
    flips: np.ndarray


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a pack, by their numbers among the loader's rows, and whether each is flipped."""

    numbers: np.ndarray
    flips: np.ndarray

    @classmethod
    def joined(cls, parts: "Sequence[_Images]") -> "_Images":
        return cls(np.concatenate([p.numbers for p in parts]), np.concatenate([p.flips for p in parts]))

    def some(self, which: np.ndarray) -> "_Images":
        return _Images(self.numbers[which], self.flips[which])


_Hand = list[tuple[int, _Images]]


def _fitted(parts: list[Tensor], own: np.ndarray, wanted: np.ndarray, kind: type[Extent]) -> list[Tensor]:
    """Each image's part, or a smaller one where its (height, width) is not the one wanted."""
    for number in np.flatnonzero((own != wanted).any(axis=1)).tolist():
        parts[number] = resampled(parts[number], kind(*own[number].tolist()), kind(*wanted[number].tolist()))
    return parts


def _joined(parts: list[Tensor], layout: PackLayout) -> Num[Tensor, "tokens values"]:
    """The images' parts end to end, zero in padding; one pass, in which other threads run."""
    padding = parts[0].new_zeros(layout.shape.tokens - layout.tokens, parts[0].shape[1])
    return torch.cat([*parts, padding])


def resampled(latent: Num[Tensor, "own channels"], own: Extent, wanted: Extent) -> Num[Tensor, "wanted channels"]:
    """A smaller latent of the same picture, by averaging cells: near what encoding the smaller picture gives."""
    # (cells, channels) → a map of (1, channels, height, width), as torch resamples it
    as_map = latent.float().T.reshape(1, -1, own.height, own.width)
    small = F.interpolate(as_map, (wanted.height, wanted.width), mode="bilinear", antialias=True)
    return small[0].flatten(1).T.contiguous().to(latent.dtype)
