"""Which images share a pack: pure functions on lengths, at the cost of a histogram.

Neither looks at every pack for every image. `lpfhp` works on the histogram of lengths with multiplicities;
`shuffled_best_fit` cuts a shuffled order into packs and closes each pack's last gap exactly, from a small reserve.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Packs:
    """Image numbers, pack after pack.

    Attributes:
        images: image numbers, int64.
        offsets: where each pack starts in `images`, and the end of the last, int64.
    """

    images: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        """The image numbers of a pack."""
        return self.images[self.offsets[pack] : self.offsets[pack + 1]]

    def tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens of each pack."""
        return np.add.reduceat(lengths[self.images], self.offsets[:-1])

    def efficiency(self, lengths: np.ndarray, budget: int) -> float:
        """Share of the packs' room that holds tokens."""
        return float(self.tokens(lengths).sum() / (len(self) * budget))

    def one_size_share(self, lengths: np.ndarray) -> float:
        """Share of packs whose images all have one length: their gradients are lopsided."""
        sorted_lengths, starts = lengths[self.images], self.offsets[:-1]
        least = np.minimum.reduceat(sorted_lengths, starts)
        most = np.maximum.reduceat(sorted_lengths, starts)
        return float(np.mean(least == most))


def lpfhp(lengths: np.ndarray, budget: int, rng: np.random.Generator) -> Packs:
    """Longest-pack-first histogram packing (arXiv 2107.02027).

    Lengths are placed from the longest to the shortest, each into the fullest packs that have room for it. Packs of
    one composition are kept as one entry with a multiplicity. Which image of a length goes where, and the order of
    the packs, are random.

    Args:
        lengths: tokens of each image.
        budget: tokens that a pack may hold.
        rng: for the shuffles.

    Raises:
        ConfigError: a budget below 1.
        DataError: an image longer than the budget.
    """
    check_budget(lengths, budget)
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]  # by length, shuffled within a length
    sizes, first, counts = np.unique(lengths[order], return_index=True, return_counts=True)
    stacks = {int(size): order[start : start + n] for size, start, n in zip(sizes, first, counts, strict=True)}
    used = dict.fromkeys(stacks, 0)
    members, widths = [], []
    for composition, packs in _compositions(sizes, counts, budget):
        columns = []
        for size, each in composition:
            start = used[size]
            used[size] = start + each * packs
            columns.append(stacks[size][start : used[size]].reshape(packs, each))
        rows = np.concatenate(columns, axis=1)
        members.append(rows.ravel())
        widths.append(np.full(packs, rows.shape[1]))
    return shuffled(_from_widths(members, widths), rng)


def shuffled_best_fit(lengths: np.ndarray, budget: int, rng: np.random.Generator, reserve: int = 1024) -> Packs:
    """Random packs without gaps: each is a run of a shuffled order, closed by one or two images that fit exactly.

    Packs hold the mix of sizes that the data hold, which `lpfhp` does not. Where no exact fit is in the reserve the
    nearest one is taken; what is left of the reserve at the end is packed by `lpfhp`.

    Args:
        lengths: tokens of each image.
        budget: tokens that a pack may hold.
        rng: for the shuffles.
        reserve: images from which gaps are closed; refilled from the shuffled order. At most a tenth of all, since
            what the reserve holds at the end is not packed at random.

    Raises:
        ConfigError: a budget below 1.
        DataError: an image longer than the budget.
    """
    check_budget(lengths, budget)
    reserve = min(reserve, max(16, len(lengths) // 10))
    order = rng.permutation(len(lengths))
    ends = np.concatenate([[0], np.cumsum(lengths[order])])
    closers = _Reserve(lengths, budget, reserve, rng)
    members, widths, start = [], [], 0
    while True:
        if closers.is_low and start < len(order):
            ahead = slice(start, start + (reserve // 2 if start else 4 * reserve))
            taken = closers.offer(order[ahead])
            # those taken stand first, so that the sums after the window hold as they are
            order[ahead] = np.concatenate([order[ahead][taken], order[ahead][~taken]])
            ends[start + 1 : start + 1 + len(taken)] = ends[start] + np.cumsum(lengths[order[ahead]])
            start += int(taken.sum())
        end = int(np.searchsorted(ends, ends[start] + budget, side="right")) - 1
        if end >= len(order):  # the rest fits into one pack: it shares the last packs with the reserve
            break
        end, closing = closers.close(lambda e, s=start: budget - int(ends[e] - ends[s]), end, start)
        members.append(np.concatenate([order[start:end], np.array(closing, dtype=np.int64)]))
        widths.append(np.array([len(members[-1])]))
        start = end
    rest = np.concatenate([order[start:], closers.remaining()]).astype(np.int64)
    if len(rest):
        last = lpfhp(lengths[rest], budget, rng)
        members.append(rest[last.images])
        widths.append(np.diff(last.offsets))
    return shuffled(_from_widths(members, widths), rng)


def check_budget(lengths: np.ndarray, budget: int) -> None:
    """Refuse a budget that some image does not fit.

    Raises:
        ConfigError: a budget below 1.
        DataError: no image, or one longer than the budget, which is named by its number.
    """
    if budget < 1:
        raise ConfigError(
            f"got a budget of {budget} tokens", wanted="at least the longest image's tokens", fix="raise the budget"
        )
    if len(lengths) == 0:
        raise DataError("there is no image to pack", wanted="at least one image", fix="check the dataset")
    longest = int(lengths.argmax())
    if lengths[longest] > budget:
        raise DataError(
            f"image number {longest} has {lengths[longest]} tokens, more than the budget of {budget}",
            wanted=f"a budget of at least {lengths[longest]} tokens",
            fix=f"set --packing.budget {lengths[longest]}, or shrink long images with --packing.oversize shrink",
        )


Composition = tuple[tuple[int, int], ...]  # (length, how many) pairs


def _compositions(sizes: np.ndarray, counts: np.ndarray, budget: int) -> list[tuple[Composition, int]]:
    """Compositions of packs and how many packs have each."""
    open_packs: dict[int, list[tuple[Composition, int]]] = {budget: []}  # by room left
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        for room in sorted(room for room in open_packs if room >= size and open_packs[room]):
            if not left:
                break
            entries, open_packs[room] = open_packs[room], []
            for composition, packs in entries:
                left = _place(open_packs, composition, packs, room, size, left)
        if left:  # new packs, each filled as far as this length goes
            _place(open_packs, (), -(-left // (budget // size)), budget, size, left)
    return [(c, packs) for entries in open_packs.values() for c, packs in entries if c and packs]


def _place(
    open_packs: dict[int, list[tuple[Composition, int]]],
    composition: Composition,
    packs: int,
    room: int,
    size: int,
    left: int,
) -> int:
    """Fill `packs` packs of one composition with up to `left` images of a length; returns how many are left over."""
    each = room // size
    whole = min(packs, left // each)
    partial = left - whole * each if whole < packs else 0
    for number, images in ((whole, each), (1 if partial else 0, partial), (packs - whole - bool(partial), 0)):
        if number:
            entry = (*composition, (size, images)) if images else composition
            open_packs.setdefault(room - images * size, []).append((entry, number))
    return left - whole * each - partial


class _Reserve:
    """Images by length, with the lengths that are there as the bits of an integer, so that a fit is one `and`."""

    TRIES = 12  # how many images a pack may give back to find an exact fit
    OF_A_LENGTH = 1 / 32  # share of the reserve that one length may take: it is variety that makes fits

    def __init__(self, lengths: np.ndarray, budget: int, size: int, rng: np.random.Generator) -> None:
        self._lengths, self._budget, self._rng = lengths, budget, rng
        self._limit = max(1, round(size * self.OF_A_LENGTH))
        self._low = min(size, self._limit * len(np.unique(lengths))) // 2
        self._stacks: dict[int, list[int]] = {}
        self._present = 0  # bit L: length L is there
        self._mirrored = 0  # bit budget − L: length L is there
        self._count = 0

    @property
    def is_low(self) -> bool:
        return self._count < self._low

    def offer(self, images: np.ndarray) -> np.ndarray:
        """Take the images whose length is not yet plentiful; returns which were taken."""
        taken = np.zeros(len(images), dtype=bool)
        for i, (image, length) in enumerate(zip(images.tolist(), self._lengths[images].tolist(), strict=True)):
            stack = self._stacks.setdefault(length, [])
            if len(stack) >= self._limit:
                continue
            if not stack:
                self._present |= 1 << length
                self._mirrored |= 1 << (self._budget - length)
            stack.append(image)
            taken[i] = True
        self._count += int(taken.sum())
        return taken

    def remaining(self) -> np.ndarray:
        return np.array([image for stack in self._stacks.values() for image in stack], dtype=np.int64)

    def close(self, gap_at: Callable[[int], int], end: int, start: int) -> tuple[int, list[int]]:
        """Where to cut a run that may reach `end`, and the images that fill what is then open."""
        for cut in range(end, max(start, end - self.TRIES), -1):
            fit = self._exact(gap_at(cut))
            if fit is not None:
                return cut, [self._take(length) for length in fit]
        gap = gap_at(end)
        closing = []
        while gap > 0 and (fitting := self._present & ((2 << gap) - 1)):
            length = fitting.bit_length() - 1  # the longest that fits
            closing.append(self._take(length))
            gap -= length
        return end, closing

    def _exact(self, gap: int) -> tuple[int, ...] | None:
        """One or two lengths of the reserve that make up the gap."""
        if gap == 0:
            return ()
        if self._present >> gap & 1:
            return (gap,)
        # bit a of the mirrored set, moved down by budget − gap, says that gap − a is there
        pairs = self._present & (self._mirrored >> (self._budget - gap))
        if not pairs:
            return None
        # a random pair, so that no length is used up first
        above = pairs >> (start := int(self._rng.integers(gap)))
        first = start + (above & -above).bit_length() - 1 if above else (pairs & -pairs).bit_length() - 1
        second = gap - first
        if first == second and len(self._stacks[first]) < 2:
            return None
        return first, second

    def _take(self, length: int) -> int:
        stack = self._stacks[length]
        image = stack.pop()
        self._count -= 1
        if not stack:
            self._present &= ~(1 << length)
            self._mirrored &= ~(1 << (self._budget - length))
        return image


def _from_widths(members: list[np.ndarray], widths: list[np.ndarray]) -> Packs:
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(widths))])
    return Packs(np.concatenate(members).astype(np.int64), offsets.astype(np.int64))


def shuffled(packs: Packs, rng: np.random.Generator) -> Packs:
    """The same packs in random order."""
    order = rng.permutation(len(packs))
    widths = np.diff(packs.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(widths)])
    # source of each image: its pack's old start plus its place in the pack
    source = np.repeat(packs.offsets[:-1][order] - offsets[:-1], widths) + np.arange(len(packs.images))
    return Packs(packs.images[source], offsets.astype(np.int64))
