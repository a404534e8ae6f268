"""How often images are drawn: right in every epoch on average, and to one draw in the long run."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import ConfigError, DataError
from anyres.latents.format import LatentDataset
from anyres.packing.dealing import Share
from anyres.packing.draws import Draws, DrawsConfig, draws_of_variants, expected_draws, repeats
from anyres.packing.loader import PackLoader, Position
from anyres.packing.plan import EpochPlanner, PackingConfig, pack_shape
from tests.made import dataset

means = st.lists(st.floats(0, 5, allow_subnormal=False), min_size=1, max_size=60)
KINDS = ("native", "square-256", "square-512", "reshaped-3")
BUDGET = 64


def counts(draws: Draws, epoch: int, images: int) -> np.ndarray:
    return np.bincount(draws.of(epoch), minlength=images)


@settings(deadline=None)
@given(means, st.integers(0, 9), st.integers(1, 30))
def test_no_image_is_ever_more_than_one_draw_ahead_or_behind(expected: list[float], seed: int, epochs: int) -> None:
    each = np.array(expected)
    draws, total = Draws(each, seed), np.zeros(len(each), dtype=np.int64)
    most = np.bincount(draws.at_most(), minlength=len(each))
    for epoch in range(epochs):
        now = counts(draws, epoch, len(each))
        assert (np.abs(now - each) < 1 + 1e-6).all()
        assert (now <= most).all()
        assert (now[each == 0] == 0).all()
        total += now
        assert (np.abs(total - (epoch + 1) * each) < 1 + 1e-6).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(0, 3), st.integers(0, 10**6))
def test_whole_numbers_are_drawn_exactly_in_every_epoch_however_late(each: list[int], seed: int, epoch: int) -> None:
    assert counts(Draws(np.array(each, dtype=float), seed), epoch, len(each)).tolist() == each


def test_fractions_are_without_bias_in_every_epoch() -> None:
    """Mean over seeds, each image and epoch by itself, within five standard errors."""
    each, seeds = np.array([0.1, 0.25, 0.5, 0.5, 0.9, 1.3, 2.75]), 3000
    for epoch in (0, 3):
        mean = sum(counts(Draws(each, seed), epoch, len(each)) for seed in range(seeds)) / seeds
        error = np.sqrt((each % 1) * (1 - each % 1) / seeds)
        assert (np.abs(mean - each) < 5 * error).all()


def test_an_epoch_is_as_long_as_it_should_be_to_few_images() -> None:
    for each in (np.full(1000, 0.3), np.repeat([0.5, 1.5], 500), np.repeat([0.2, 0.7, 1.1], 400)):
        sizes = [len(Draws(each, seed).of(epoch)) for seed in range(5) for epoch in range(5)]
        assert np.abs(np.array(sizes) - each.sum()).max() < 8  # by chance alone: a spread of 14 or more


def test_draws_follow_from_seed_and_epoch_and_choose_other_images_each_epoch() -> None:
    each = np.full(200, 0.3)
    one = Draws(each, 5)
    late = one.of(7).tolist()
    assert one.of(0).tolist() == Draws(each, 5).of(0).tolist()
    assert Draws(each, 5).of(7).tolist() == late
    assert len({tuple(found) for found in (late, one.of(8).tolist(), Draws(each, 6).of(7).tolist())}) == 3


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4096)), min_size=1, max_size=40),
    st.floats(-2, 2),
    st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 4),
)
def test_means_go_with_tokens_to_the_power_and_keep_their_sum(
    images: list[tuple[str, int]], power: float, numbers: tuple[float, ...]
) -> None:
    config = DrawsConfig(**dict(zip(("native", "square_256", "square_512", "reshaped"), numbers, strict=True)))
    variants, lengths = [kind for kind, _ in images], np.array([length for _, length in images])
    wanted = np.array([dict(zip(KINDS, numbers, strict=True))[kind] for kind in variants])
    if not wanted.any():
        with pytest.raises(DataError, match="never drawn"):
            draws_of_variants(config, variants)
        return
    of_variants = draws_of_variants(config, variants)
    assert (of_variants == wanted).all()
    found = expected_draws(of_variants, lengths, power)
    assert found.sum() == pytest.approx(wanted.sum())
    some = wanted > 0
    ratio = found[some] / (wanted[some] * lengths[some] ** power)
    assert ratio.max() == pytest.approx(ratio.min())


@given(st.lists(st.integers(0, 6), max_size=40))
def test_repeats_count_what_stands_before(images: list[int]) -> None:
    assert repeats(np.array(images, dtype=np.int64)).tolist() == [images[:n].count(i) for n, i in enumerate(images)]


@pytest.mark.parametrize("algorithm", ["lpfhp", "shuffled_best_fit"])
def test_packs_hold_the_draws_within_budget_and_shape(algorithm: str) -> None:
    rng = np.random.default_rng(1)
    lengths, each = rng.integers(1, 40, 80), rng.uniform(0, 3, 80)
    draws, config = Draws(each, 2), PackingConfig(budget=BUDGET, algorithm=algorithm)
    planner, shape = EpochPlanner(lengths, config, 2, draws=draws), pack_shape(lengths[draws.at_most()], BUDGET)
    for epoch in range(6):
        packs = planner.packs(epoch)
        assert sorted(packs.images.tolist()) == draws.of(epoch).tolist()
        assert packs.tokens(lengths).max() <= BUDGET
        assert np.diff(packs.offsets).max() + 1 <= shape.images


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"native": -1.0}, {"square_512": float("inf")}, {"tokens_power": 3.0}, {"reshaped": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            DrawsConfig(**wrong)
    with pytest.raises(ConfigError, match="as often as the fixed packs hold it"):
        PackingConfig(budget=8, algorithm="fixed", draws=DrawsConfig(native=2.0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    """Made images as they are and, enlarged, as squares of 256 px."""
    folder = tmp_path_factory.mktemp("made")
    return LatentDataset.open(dataset(folder, multiple_of_cells=2, variants=("native", "square-256"), upscale=True))


def loader(data: LatentDataset, draws: DrawsConfig, **changes) -> PackLoader:
    options = {"rows": np.arange(len(data)), "patch": 2, "packing": PackingConfig(budget=512, draws=draws), "seed": 0}
    return PackLoader(data, **{**options, **changes})


def rows_of(made: PackLoader, epoch: int) -> Counter[int]:
    return Counter(row for number in range(made.packs_in(epoch)) for row in made.pack(epoch, number).indices)


def test_a_loader_draws_each_variant_as_often_as_it_is_told(data: LatentDataset) -> None:
    made = loader(data, DrawsConfig(native=2.0, square_256=0.5))
    native = {row for row, variant in enumerate(data.variants) if variant == "native"}
    assert 0 < len(native) < len(data)
    two = rows_of(made, 0) + rows_of(made, 1)
    assert two == {row: 4 if row in native else 1 for row in range(len(data))}
    assert made.left_out == 0


def test_a_variant_of_weight_zero_is_left_out_and_counted_however_long(data: LatentDataset) -> None:
    draws, native = DrawsConfig(square_256=0.0), [v == "native" for v in data.variants]
    made = loader(data, draws, packing=PackingConfig(budget=12, draws=draws))  # a square of 256 tokens would not fit
    assert sorted(rows_of(made, 3)) == np.flatnonzero(native).tolist()
    assert made.left_out == len(data) - sum(native) > 0


def test_an_image_drawn_twice_in_an_epoch_is_seen_both_ways(data: LatentDataset) -> None:
    made = loader(data, DrawsConfig(native=2.0, square_256=2.0))
    packs = [made.pack(0, number) for number in range(made.packs_in(0))]
    seen = {(row, flipped) for pack in packs for row, flipped in zip(pack.indices, pack.flipped, strict=True)}
    assert len(seen) == 2 * len(data)
    as_is = loader(data, DrawsConfig(native=2.0), flip=False)
    assert not any(any(as_is.pack(0, number).flipped) for number in range(as_is.packs_in(0)))


def test_epochs_without_any_image_are_passed_over(data: LatentDataset) -> None:
    made = loader(data, DrawsConfig(native=0.03, square_256=0.0))  # less than one image an epoch
    empty = [epoch for epoch in range(30) if made.packs_in(epoch) == 0]
    assert 5 < len(empty) < 30
    packs = made.stream(Position(epoch=0, pack=0), lambda pack, _number: pack.indices)
    taken = [next(packs) for _ in range(8)]
    packs.close()
    wanted = [made.pack(e, n).indices for e in range(60) for n in range(made.packs_in(e))]
    assert taken == wanted[:8]


def test_any_number_of_processes_sees_the_same_images(data: LatentDataset) -> None:
    def seen(ranks: int) -> list[Counter[tuple[int, bool]]]:
        found = [Counter() for _ in range(5)]  # of each step
        for rank in range(ranks):
            made = loader(data, DrawsConfig(native=1.5, square_256=0.7, tokens_power=-0.5))
            share = Share(packs_per_step=4, rank=rank, ranks=ranks)
            packs = made.stream(
                Position(epoch=0, pack=0),
                lambda pack, number: (number // 4, list(zip(pack.indices, pack.flipped, strict=True))),
                share=share,
            )
            for _ in range(5 * 4 // ranks):
                step, images = next(packs)
                found[step].update(images)
            packs.close()
        return found

    assert seen(1) == seen(2) == seen(4)


def test_drawing_each_image_once_is_what_it_was_without_the_option(data: LatentDataset) -> None:
    once, asked = loader(data, DrawsConfig()), Draws(np.ones(len(data)), 0)
    assert asked.of(4).tolist() == list(range(len(data)))
    planner = EpochPlanner(once.lengths, PackingConfig(budget=512), 0, draws=asked)
    plain = EpochPlanner(once.lengths, replace(PackingConfig(budget=512), draws=DrawsConfig()), 0)
    assert planner.packs(4).images.tolist() == plain.packs(4).images.tolist()
