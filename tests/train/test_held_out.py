"""The held-out loss: what it is the mean of, and its groups."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.grid import Grid
from anyres.latents.format import LatentDataset
from anyres.packing.pack import PackShape
from anyres.train.groups import SIZES, TIMES, group_names, groups_of
from anyres.train.held_out import held_out_loss
from anyres.train.loop import loaders
from anyres.train.losses import draw, pack_loss
from anyres.train.state import TrainState
from tests.made import dataset
from tests.model.helpers import random_model
from tests.train.test_run import settings
from tests.train.test_step import CONFIG, CPU, pack_of


def test_groups_are_of_the_images_time_and_size() -> None:
    grids = [Grid(8, 8), Grid(5, 13), Grid(1, 1), Grid(16, 16), Grid(16, 17)]
    drawn = draw(pack_of(grids, shape=PackShape(1000, 9, 300)), CONFIG, 0, dropout=0)
    t = torch.zeros(9)
    t[:5] = torch.tensor([0.0, 0.19, 0.21, 0.6, 1.0])
    times, sizes = groups_of(drawn.layout, t)
    names = group_names()
    assert [names[n] for n in times[:5].tolist()] == ["t_0.0_0.2", "t_0.0_0.2", "t_0.2_0.4", "t_0.6_0.8", "t_0.8_1.0"]
    assert [names[n] for n in sizes[:5].tolist()] == [
        "tokens_1_64",
        "tokens_65_256",
        "tokens_1_64",
        "tokens_65_256",
        "tokens_257_1024",
    ]
    assert len(names) == len(set(names)) == TIMES + len(SIZES) + 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("held"), multiple_of_cells=2)


def test_it_is_the_loss_of_the_packs_and_the_groups_make_it_up(data: Path) -> None:
    """Against the loss that training minimises, and each group against its images alone."""
    config = settings(data)
    _, loader = loaders(LatentDataset.open(data), config)
    assert loader is not None
    state = TrainState.create(config, CPU)
    state.average.load_state_dict(random_model(config.model).state_dict())
    found = held_out_loss(state, loader, config)
    sums, tokens, by_time = [], 0, dict.fromkeys(group_names()[:TIMES], 0)
    for number in range(min(config.held_out.packs, loader.packs_in(0))):
        pack = loader.pack(0, number)
        drawn = draw(pack, config, config.seed, "held-out", number, dropout=0.0)
        sums.append(pack_loss(state.average, drawn, config))
        tokens += pack.layout.tokens
        for grid, t in zip(pack.layout.grids, drawn.t.tolist(), strict=False):
            by_time[group_names()[min(int(t * TIMES), TIMES - 1)]] += grid.tokens
    assert found.loss == pytest.approx(float(sum(part.total for part in sums)) / tokens, rel=1e-5)
    assert found.flow == pytest.approx(float(sum(part.flow for part in sums)) / tokens, rel=1e-5)
    seen = {name: count for name, count in by_time.items() if count}
    assert len(seen) > 1
    assert {name for name in found.groups if name.startswith("t_")} == set(seen)
    assert sum(found.groups[name] * count for name, count in seen.items()) == pytest.approx(
        found.flow * tokens, rel=1e-5
    )
    assert found.groups["tokens_1_64"] == pytest.approx(found.flow, rel=1e-5)  # all are so small
    assert len({round(found.groups[name], 6) for name in seen}) > 1


def test_padding_is_in_no_group(data: Path) -> None:
    config = settings(data)
    whole = replace(config, held_out=replace(config.held_out, share=0.0), flip=False)
    opened, state = LatentDataset.open(data), TrainState.create(config, CPU)
    state.average.load_state_dict(random_model(config.model).state_dict())
    plain, padded = (
        held_out_loss(state, loaders(opened, whole, one_shape=one_shape)[0], config) for one_shape in (False, True)
    )
    assert plain.images == padded.images
    assert padded.flow == pytest.approx(plain.flow, rel=1e-4)
    assert padded.groups == pytest.approx(plain.groups, rel=1e-4)
