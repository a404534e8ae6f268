"""The packs of a step, made equally costly and dealt to the processes that train together.

An image of l tokens costs a·l for the linear maps and b·l² for attention, so packs that are equally full are not
equally costly. Images are exchanged between the packs of a step, which leaves the step's images as they are and does
not depend on how many processes there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

EVEN = 0.01  # packs whose costs differ by less, as a share of their mean, are even
RUN = 32  # most images that a pack gives in an exchange
CHOICES = 8192  # runs of images of a pack that are looked at for it, at most
SPREAD = 0.3  # of the logarithms of lengths, by which half of the orders are nearly sorted: runs of images of like size
TRIES = 8  # partners tried

ImageCost = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of several processes makes of a stream of packs.

    Attributes:
        packs_per_step: consecutive packs of a step; `ranks` divides it.
        rank: the process.
        ranks: of how many.
        cost: images' lengths → their costs; by default their tokens.
    """

    packs_per_step: int = 1
    rank: int = 0
    ranks: int = 1
    cost: ImageCost = np.asarray


def even_packs(packs: Sequence[np.ndarray], lengths: np.ndarray, cost: ImageCost, budget: int) -> list[np.ndarray]:
    """The same images in as many packs, exchanged until the packs' costs are even or no exchange helps.

    The costliest pack gives images to a cheap one, for others of as many tokens, or for none where there is room.
    Where all packs are full, one with an image of thousands of tokens can do no better than to hold the step's smallest
    images beside it, and stays the costliest.

    Args:
        packs: image numbers of each pack.
        lengths: tokens of each image.
        cost: images' lengths → their costs.
        budget: tokens that a pack may hold.
    """
    packs, rng = list(packs), np.random.default_rng(0)
    costs = np.array([cost(lengths[pack]).sum() for pack in packs])
    for _ in range(4 * len(packs)):
        *others, most = np.argsort(costs, kind="stable").tolist()
        if not others or costs[most] - costs[others[0]] <= EVEN * costs.mean():
            break
        for least in others[:TRIES]:
            found = _exchange(packs[most], packs[least], lengths, cost, budget, rng)
            if found is not None:
                packs[most], packs[least], moved = found
                costs[most], costs[least] = costs[most] - moved, costs[least] + moved
                break
        else:
            break
    return packs


def deal(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """The packs that each rank takes, equally many: the costliest first, each to the rank with the least so far."""
    each = len(costs) // ranks
    hands: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for pack in np.argsort(-np.asarray(costs), kind="stable").tolist():
        rank = min((rank for rank in range(ranks) if len(hands[rank]) < each), key=loads.__getitem__)
        hands[rank].append(pack)
        loads[rank] += costs[pack]
    return [sorted(hand) for hand in hands]


def _exchange(
    rich: np.ndarray, poor: np.ndarray, lengths: np.ndarray, cost: ImageCost, budget: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Both packs after the best exchange, and the cost that it moves; None where none brings them nearer."""
    wanted = float(cost(lengths[rich]).sum() - cost(lengths[poor]).sum()) / 2
    room = budget - int(lengths[poor].sum())
    given, taken = (_Runs.of(pack, lengths, cost, rng) for pack in (rich, poor))
    # for each run that may be given: the run of as many tokens whose cost is nearest to what would be best for it
    scale = 2 * float(max(given.costs.max(), taken.costs.max()) + wanted) + 1
    keys = taken.tokens * scale + taken.costs
    order = keys.argsort(kind="stable")  # the same on every machine: each process deals for itself
    place = np.searchsorted(keys[order], given.tokens * scale + given.costs - wanted)
    partners = np.stack([order[np.clip(place + shift, 0, len(order) - 1)] for shift in (-1, 0)])
    exchanged = np.where(taken.tokens[partners] == given.tokens, given.costs - taken.costs[partners], np.inf)
    gifts = np.where(given.tokens <= room, given.costs, np.inf)
    moved = np.vstack([exchanged, gifts])
    row, column = np.unravel_index(int(np.abs(moved - wanted).argmin()), moved.shape)
    if abs(moved[row, column] - wanted) > 0.9 * wanted:
        return None
    out = given.members(int(column))
    into = taken.members(int(partners[row, column])) if row < len(partners) else out[:0]
    return (
        np.concatenate([rich[~np.isin(rich, out)], into]),
        np.concatenate([poor[~np.isin(poor, into)], out]),
        float(moved[row, column]),
    )


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of images in random orders of a pack: sets that may be exchanged, with their tokens and costs."""

    orders: np.ndarray
    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    tokens: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, pack: np.ndarray, lengths: np.ndarray, cost: ImageCost, rng: np.random.Generator) -> "_Runs":
        longest = min(RUN, len(pack))
        orders = rng.permuted(np.tile(pack, (max(2, CHOICES // (longest * len(pack))), 1)), axis=1)
        half = orders[: len(orders) // 2]
        half[:] = np.take_along_axis(half, (np.log(lengths[half]) + SPREAD * rng.normal(size=half.shape)).argsort(), 1)
        runs = longest * orders.size
        chosen = np.arange(runs) if runs <= CHOICES else rng.integers(runs, size=CHOICES)
        size, row, start = np.unravel_index(chosen, (longest, *orders.shape))
        end = start + size + 1
        inside = end <= len(pack)
        row, start, end = row[inside], start[inside], end[inside]
        tokens, costs = (
            np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0))) for values in (lengths[orders], cost(lengths[orders]))
        )
        return cls(orders, row, start, end, tokens[row, end] - tokens[row, start], costs[row, end] - costs[row, start])

    def members(self, run: int) -> np.ndarray:
        return self.orders[self.row[run], self.start[run] : self.end[run]]
