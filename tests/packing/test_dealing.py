"""Packs of a step made even and dealt: the same images, equally costly, whoever takes them."""

from itertools import islice

import numpy as np
import pytest
from benchmarks.dealing import bound
from hypothesis import given
from hypothesis import strategies as st

from anyres.model.config import NiTConfig
from anyres.packing.algorithms import shuffled_best_fit
from anyres.packing.dealing import Share, deal, even_packs
from anyres.packing.loader import Position
from tests.packing.test_loader import BUDGET, data, loader, same  # noqa: F401 - a fixture

COST = NiTConfig.preset("xl", num_classes=1000).image_flops


def mixed_lengths(images: int) -> np.ndarray:
    """Tokens of images of all sizes up to 4,096, as many of each octave."""
    return np.exp(np.random.default_rng(0).uniform(np.log(16), np.log(4096), images)).astype(np.int64)


def imbalance(loads: np.ndarray) -> float:
    """How much longer the slowest takes than all would if they were even."""
    return float(loads.max() / loads.mean() - 1)


@pytest.mark.parametrize(("ranks", "packs_per_step"), [(2, 2), (8, 8), (8, 16)])
def test_sizes_up_to_4096_tokens_are_dealt_evenly(ranks: int, packs_per_step: int) -> None:
    budget, lengths = 16_384, mixed_lengths(30_000)
    packs = shuffled_best_fit(lengths, budget, np.random.default_rng(0))
    before, after = [], []
    for first in range(0, len(packs) - packs_per_step + 1, packs_per_step):
        step = [packs[number] for number in range(first, first + packs_per_step)]
        even = even_packs(step, lengths, COST, budget)
        for packed, found in ((step, before), (even, after)):
            costs = [COST(lengths[pack]).sum() for pack in packed]
            found.append(imbalance(np.array([sum(costs[i] for i in hand) for hand in deal(costs, ranks)])))
    assert np.mean(before) > 2 * np.mean(after)  # dealing whole packs does not do it
    assert np.mean(after) < 0.01
    # what is left at an epoch's end is packed by size, and a pack of large images has nothing to exchange
    assert np.quantile(after, 0.95) < 0.02


def test_packs_of_hundreds_of_images_are_dealt_evenly() -> None:
    """There are more runs than are looked at."""
    rng, budget = np.random.default_rng(0), 65_536
    lengths = rng.permutation(np.concatenate([np.full(4000, 64), np.full(1500, 256), rng.integers(16, 700, 2500)]))
    packs = list(shuffled_best_fit(lengths, budget, rng))[:8]
    assert min(map(len, packs)) > 200
    costs = [COST(lengths[pack]).sum() for pack in even_packs(packs, lengths, COST, budget)]
    assert imbalance(np.array(costs)) < 0.01 < imbalance(np.array([COST(lengths[pack]).sum() for pack in packs]))


def test_one_long_image_among_small_ones_is_evened_as_far_as_can_be() -> None:
    """Eight full packs, one with an image of 4,096 tokens: attention makes it the costliest however they are filled."""
    budget, with_long, without = 16_384, [4096, *[1024] * 12], [*[256] * 56, *[64] * 32]
    lengths = np.array([*with_long, *without * 7])
    ends = np.cumsum([len(with_long), *[len(without)] * 7])
    packs = np.split(np.arange(len(lengths)), ends[:-1])
    assert {int(lengths[pack].sum()) for pack in packs} == {budget}
    least = bound(packs, lengths, budget)
    before, after = (
        imbalance(np.array([COST(lengths[pack]).sum() for pack in step]))
        for step in (packs, even_packs(packs, lengths, COST, budget))
    )
    assert 0.02 < least <= after < least + 0.02 < before


@given(st.lists(st.integers(1, 60), min_size=8, max_size=60), st.integers(1, 6), st.integers(0, 9))
def test_a_step_keeps_its_images_and_its_packs_their_budget(tokens: list[int], count: int, seed: int) -> None:
    lengths, budget = np.array(tokens), 64
    packs = shuffled_best_fit(lengths, budget, np.random.default_rng(seed))
    step = [packs[number] for number in range(min(count, len(packs)))]
    even = even_packs(step, lengths, lambda own: own + own**2 / 10, budget)
    assert len(even) == len(step)
    assert sorted(np.concatenate(even)) == sorted(np.concatenate(step))
    assert all(0 < lengths[pack].sum() <= budget for pack in even)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=24), st.integers(1, 6))
def test_each_rank_takes_as_many_packs_and_each_pack_goes_to_one(costs: list[float], ranks: int) -> None:
    costs = costs[: len(costs) // ranks * ranks]
    hands = deal(costs, ranks)
    assert sorted(pack for hand in hands for pack in hand) == list(range(len(costs)))
    assert {len(hand) for hand in hands} == {len(costs) // ranks}


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_packs_that_one_would_make(data, ranks: int) -> None:  # noqa: F811
    """Whatever their number: the same packs a step, across the end of an epoch, each made by one rank."""
    start, steps = Position(epoch=0, pack=1), 8

    def made(rank: int, ranks: int) -> list:
        share = Share(packs_per_step=6, rank=rank, ranks=ranks, cost=lambda own: own + own**2)
        packs = loader(data).stream(start, lambda pack, number: (number, pack), share=share)
        try:
            return list(islice(packs, 6 * steps // ranks))
        finally:
            packs.close()

    alone = dict(made(0, 1))
    assert sorted(alone) == list(range(6 * steps))
    assert 6 * steps > 2 * loader(data).packs_in(0)
    shared = [made(rank, ranks) for rank in range(ranks)]
    assert sorted(number for own in shared for number, _ in own) == sorted(alone)
    assert all(same(pack, alone[number]) for own in shared for number, pack in own)
    # each step is the images of its consecutive packs
    made_plainly = loader(data)
    for step in range(steps):
        places = [made_plainly.advance(start, 6 * step + number) for number in range(6)]
        expected = [made_plainly.pack(place.epoch, place.pack) for place in places]
        ours = [alone[6 * step + number] for number in range(6)]
        assert sorted(i for pack in ours for i in pack.indices) == sorted(i for pack in expected for i in pack.indices)
        lengths = made_plainly.lengths_of(places[0], 6)
        assert (len(lengths), lengths.sum()) == (
            sum(pack.layout.images for pack in ours),
            sum(pack.layout.tokens for pack in ours),
        )
        assert all(pack.layout.tokens <= BUDGET for pack in ours)
