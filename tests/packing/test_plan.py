"""The packs of an epoch, and what a budget does to long images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres import noise
from anyres.errors import ConfigError, DataError
from anyres.grid import Cells, Grid
from anyres.packing.algorithms import lpfhp, shuffled_best_fit
from anyres.packing.pack import PackLayout
from anyres.packing.plan import EpochPlanner, PackingConfig, fit_to_budget, pack_shape, report, shrunk_cells

algorithms = pytest.mark.parametrize("algorithm", ["lpfhp", "shuffled_best_fit"])
LENGTHS = np.random.default_rng(3).integers(1, 60, 400)


def planner(algorithm: str = "lpfhp", seed: int = 0, budget: int = 128) -> EpochPlanner:
    return EpochPlanner(LENGTHS, PackingConfig(budget=budget, algorithm=algorithm), seed)


def listed(packs) -> list[list[int]]:
    return [packs[number].tolist() for number in range(len(packs))]


@algorithms
def test_an_epochs_packs_follow_from_seed_and_epoch_alone(algorithm: str) -> None:
    one = planner(algorithm)
    for epoch in (3, 0, 1):  # in any order
        one.packs(epoch)
    assert listed(one.packs(2)) == listed(planner(algorithm).packs(2))


@algorithms
def test_epochs_and_seeds_differ(algorithm: str) -> None:
    found = [listed(planner(algorithm, seed).packs(epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({str(packs) for packs in found}) == 4
    assert all(sorted(image for pack in packs for image in pack) == list(range(len(LENGTHS))) for packs in found)


def test_the_algorithm_is_the_one_that_was_named() -> None:
    for name, algorithm in (("lpfhp", lpfhp), ("shuffled_best_fit", shuffled_best_fit)):
        rng = noise.generator(7, "packs", 2)
        assert listed(planner(name, seed=7).packs(2)) == listed(algorithm(LENGTHS, 128, rng))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="budget of 0 tokens"):
        PackingConfig(budget=0)
    with pytest.raises(DataError, match=f"a budget of at least {LENGTHS.max()} tokens"):
        planner(budget=int(LENGTHS.max()) - 1)


def test_a_long_image_is_named_with_the_smallest_budget_that_fits() -> None:
    cells = np.array([[2, 2], [6, 8], [10, 4], [2, 8]])
    names = ["a", "b", "c", "d"]
    with pytest.raises(DataError, match=r"2 images .* budget of 9 tokens; the longest, b, has 12") as raised:
        fit_to_budget(cells, 2, PackingConfig(budget=9), names.__getitem__)
    assert "--packing.budget 12" in raised.value.fix
    assert fit_to_budget(cells, 2, PackingConfig(budget=12), names.__getitem__) is cells


def test_only_long_images_are_shrunk_and_the_input_stays() -> None:
    cells = np.array([[2, 2], [6, 8], [10, 4], [2, 8]])
    before = cells.copy()
    fitted = fit_to_budget(cells, 2, PackingConfig(budget=9, oversize="shrink"), str)
    assert np.array_equal(cells, before)
    assert np.array_equal(fitted[[0, 3]], cells[[0, 3]])
    assert (fitted[[1, 2]] // 2).prod(axis=1).max() <= 9
    assert (fitted % 2 == 0).all()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.data())
def test_a_shrunk_grid_fits_and_keeps_the_shape(height: int, width: int, patch: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, height * width))
    grid = shrunk_cells(Cells(height * patch, width * patch), patch, budget).grid(patch)
    assert grid.tokens <= budget
    assert grid.height <= height
    assert grid.width <= width
    scale = (budget / (height * width)) ** 0.5
    for found, exact in ((grid.height, height * scale), (grid.width, width * scale)):
        # never rounded up, but to one token; cut short only beside such a side, which is longer than its share
        assert found <= max(1, exact + 1e-9)
        assert found > exact - 1 - 1e-9 or (1 in (grid.height, grid.width) and found == budget)


@pytest.mark.parametrize(("cells", "budget", "wanted"), [((8, 8), 16, (4, 4)), ((2, 40), 20, (1, 20)),
                                                         ((40, 2), 20, (20, 1)), ((100, 1), 7, (7, 1)),
                                                         ((1, 100), 7, (1, 7)), ((9, 16), 36, (4, 8))])  # fmt: skip
def test_shrunk_grids_known_by_hand(cells: tuple[int, int], budget: int, wanted: tuple[int, int]) -> None:
    assert shrunk_cells(Cells(*cells), 1, budget) == Cells(*wanted)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 200), st.integers(0, 3))
def test_one_shape_fits_every_pack_of_every_epoch(lengths: list[int], more: int, seed: int) -> None:
    tokens = np.array(lengths)
    budget = int(tokens.max()) + more
    shape = pack_shape(tokens, budget)
    assert shape.tokens % 128 == 0
    assert 0 <= shape.tokens - budget < 128
    for algorithm in ("lpfhp", "shuffled_best_fit"):
        own = EpochPlanner(tokens, PackingConfig(budget=budget, algorithm=algorithm), seed)
        for epoch in range(3):
            for images in listed(own.packs(epoch)):
                layout = PackLayout.from_grids([Grid(1, int(tokens[image])) for image in images], shape)
                assert layout.shape == shape


@algorithms
def test_a_report_is_what_its_packs_measure(algorithm: str) -> None:
    found = report(LENGTHS, PackingConfig(budget=128, algorithm=algorithm), seed=5)
    packs = listed(planner(algorithm, seed=5).packs(0))
    images = [len(pack) for pack in packs]
    assert (found.packs, found.budget, found.algorithm, found.shrunk) == (len(packs), 128, algorithm, 0)
    assert found.efficiency == pytest.approx(LENGTHS.sum() / (len(packs) * 128))
    assert found.one_size_share == pytest.approx(np.mean([len(set(LENGTHS[pack])) == 1 for pack in packs]))
    assert found.images_per_pack == pytest.approx(np.mean(images))
    assert found.images_per_pack_std == pytest.approx(np.std(images))


def test_a_report_counts_the_images_that_are_too_long() -> None:
    found = report(LENGTHS, PackingConfig(budget=30))
    assert found.shrunk == (LENGTHS > 30).sum() > 0
    assert found.efficiency <= 1
