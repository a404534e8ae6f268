"""Packs that a dataset brings: every epoch just these, and what does not fit them is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyres.errors import ConfigError, DataError
from anyres.inspection.dataset import dataset_report
from anyres.latents.fixed_packs import FILE, read_fixed_packs, write_fixed_packs
from anyres.latents.format import LatentDataset
from anyres.packing.fixed import fixed_packs
from anyres.packing.loader import PackLoader
from anyres.packing.plan import EpochPlanner, PackingConfig
from anyres.train.config import HeldOutConfig, TrainConfig
from anyres.train.loop import loaders, train
from tests.made import dataset
from tests.model.helpers import small_config

PATCH = 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=PATCH)


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> LatentDataset:
    """With packs of one to five images; three images are in none."""
    for path in prepared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    order = np.random.default_rng(0).permutation(24)[:21]
    write_fixed_packs(tmp_path, np.split(order, [1, 6, 10, 12, 17]))
    return LatentDataset.open(tmp_path)


def stored(data: LatentDataset) -> list[list[int]]:
    packs = read_fixed_packs(data.path, len(data))
    return [pack.tolist() for pack in np.split(packs.rows, packs.offsets[1:-1])]


def fullest(data: LatentDataset) -> int:
    return int(max(data.lengths(PATCH)[pack].sum() for pack in stored(data)))


def config(data: LatentDataset, **changes) -> TrainConfig:
    settings = {
        "model": small_config(channels=32, num_classes=2, patch_size=PATCH),
        "packing": PackingConfig(budget=fullest(data), algorithm="fixed"),
        "steps": 2,
        "held_out": HeldOutConfig(share=0),
    }
    return TrainConfig(**{**settings, **changes})


def epoch(loader: PackLoader, number: int) -> list[list[int]]:
    return [list(loader.pack(number, pack).indices) for pack in range(loader.packs_in(number))]


def test_packs_are_read_as_they_were_written(data: LatentDataset) -> None:
    order = np.random.default_rng(0).permutation(24)[:21].tolist()
    assert stored(data) == [order[a:b] for a, b in ((0, 1), (1, 6), (6, 10), (10, 12), (12, 17), (17, 21))]


@pytest.mark.parametrize("one_shape", [False, True])
def test_every_epoch_has_just_these_packs_in_another_order(data: LatentDataset, one_shape: bool) -> None:
    training, held_out = loaders(data, config(data), one_shape=one_shape)
    assert held_out is None
    epochs = [epoch(training, number) for number in range(4)]
    for packs in epochs:
        assert Counter(map(tuple, packs)) == Counter(map(tuple, stored(data)))
    assert len({str(packs) for packs in epochs}) > 1
    assert epoch(loaders(data, config(data))[0], 2) == epochs[2]


def test_a_part_of_the_rows_is_enough_where_the_packs_need_no_more(data: LatentDataset) -> None:
    rows = np.array(sorted(row for pack in stored(data) for row in pack))
    packing = config(data).packing
    loader = PackLoader(data, rows=rows, patch=PATCH, packing=packing, seed=0, fixed=fixed_packs(data, rows))
    assert Counter(map(tuple, epoch(loader, 0))) == Counter(map(tuple, stored(data)))


def test_a_run_trains_in_them(data: LatentDataset, tmp_path: Path) -> None:
    finished = train(config(data), data.path, tmp_path / "run", device="cpu")
    in_two_steps = finished.progress.images
    assert in_two_steps in {len(a) + len(b) for a in stored(data) for b in stored(data)}


def test_held_out_images_are_refused_and_the_way_out_is_said(data: LatentDataset) -> None:
    with pytest.raises(ConfigError, match=r"rows of the fixed packs of .* are held out") as raised:
        loaders(data, config(data, held_out=HeldOutConfig(share=0.3)))
    assert "--held-out.share 0" in raised.value.fix


def test_a_budget_below_the_fullest_pack_is_refused(data: LatentDataset) -> None:
    budget = fullest(data) - 1
    with pytest.raises(DataError, match=f"the fullest of the fixed packs has {budget + 1} tokens"):
        loaders(data, config(data, packing=PackingConfig(budget=budget, algorithm="fixed")))


def test_the_planner_wants_packs_with_this_algorithm_and_with_no_other(data: LatentDataset) -> None:
    packs, lengths = fixed_packs(data, np.arange(len(data))), data.lengths(PATCH)
    with pytest.raises(ConfigError, match="'fixed' without fixed packs"):
        EpochPlanner(lengths, PackingConfig(budget=100, algorithm="fixed"), 0)
    with pytest.raises(ConfigError, match="'lpfhp' with fixed packs"):
        EpochPlanner(lengths, PackingConfig(budget=100, algorithm="lpfhp"), 0, packs)


def test_a_dataset_without_packs_says_how_to_get_them(prepared: Path) -> None:
    data = LatentDataset.open(prepared)
    with pytest.raises(DataError, match="has no fixed packs") as raised:
        fixed_packs(data, np.arange(len(data)))
    assert "anyres import-released" in raised.value.fix


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"packs": [[0]]}),
        pa.table({"rows": [[0], [24]]}),
        pa.table({"rows": [[0, -1]]}),
        pa.table({"rows": pa.array([], pa.list_(pa.int64()))}),
        None,
    ],
)
def test_damaged_packs_are_refused(data: LatentDataset, table: pa.Table | None) -> None:
    (data.path / FILE).write_bytes(b"PAR1")
    if table is not None:
        pq.write_table(table, data.path / FILE)
    with pytest.raises(DataError, match=r"does not list packs of 24 rows|cannot be read"):
        fixed_packs(data, np.arange(len(data)))


def test_the_report_counts_only_what_is_in_the_packs(data: LatentDataset) -> None:
    packing = dataset_report(data, PATCH, ()).packings[-1]
    in_packs = sum(data.lengths(PATCH)[pack].sum() for pack in stored(data))
    assert (packing.algorithm, packing.packs, packing.budget) == ("fixed", 6, fullest(data))
    assert packing.efficiency == pytest.approx(in_packs / (6 * fullest(data)))
    assert packing.images_per_pack == pytest.approx(21 / 6)
