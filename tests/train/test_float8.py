"""Training with the blocks' products in 8 bits: what follows the weights, exact resume, and what is refused.

The kernels run in Triton's interpreter, so networks and packs are tiny.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.cli import main
from anyres.errors import BackendError
from anyres.grid import Grid
from anyres.ranks import Ranks
from anyres.train.config import TrainConfig
from anyres.train.distributed import Team
from anyres.train.loop import train
from anyres.train.losses import draw
from anyres.train.state import TrainState
from anyres.train.step import backward, update
from tests.interpreted import round_to_float8
from tests.made import dataset
from tests.model.helpers import random_model, small_config
from tests.train.test_run import last_state, settings
from tests.train.test_step import CONFIG, pack_of

pytest.importorskip("triton")

FLOAT8 = replace(CONFIG, model=small_config(patch_size=2, depth=1, hidden_size=32), precision="float8")


@pytest.fixture(autouse=True)
def _rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    round_to_float8(monkeypatch)


def random_state(config: TrainConfig) -> TrainState:
    state = TrainState.create(config, torch.device("cpu"))
    state.model.load_state_dict(random_model(config.model).state_dict())
    state.update.refresh()
    return state


@pytest.mark.parametrize("packs", [1, 2])
def test_a_step_is_one_of_bfloat16_up_to_the_rounding(packs: int) -> None:
    grids, losses, weights = [[Grid(3, 4), Grid(2, 2)], [Grid(4, 4)]], [], []
    drawn = [draw(pack_of(each), FLOAT8, 0, number, dropout=0.0) for number, each in enumerate(grids[:packs])]
    for precision in ("bfloat16", "float8"):
        config = replace(FLOAT8, precision=precision, packs_per_step=packs)
        state = random_state(config)
        before = torch.cat([weight.detach().clone().flatten() for weight in state.model.parameters()])
        losses.append(float(update(state, backward(state, drawn, config), config).loss.total))
        weights.append(torch.cat([weight.detach().flatten() for weight in state.model.parameters()]) - before)
    assert 0 < abs(losses[1] - losses[0]) < 0.05 * losses[0]
    assert torch.nn.functional.cosine_similarity(*weights, dim=0) > 0.8  # AdamW's first step is the gradient's sign


def test_weights_in_8_bits_follow_the_update() -> None:
    state = random_state(FLOAT8)
    up = state.update.network.blocks[0].mlp.up
    before = state.update.network.float8[up].rows.exact().clone()
    for weight in state.update.network.parameters():
        weight.grad = torch.full_like(weight, 0.1)
    state.update._config = replace(state.update._config, learning_rate=0.5)
    state.update(torch.tensor(1.0), 1, 0.9)
    after = state.update.network.float8[up].rows.exact()
    assert (after - before).abs().min() > 0.3
    assert (after - up.weight).abs().max() <= 2**-4 * up.weight.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(value: float) -> None:
    state = random_state(FLOAT8)
    drawn = draw(pack_of([Grid(3, 4)]), FLOAT8, 0, dropout=0.0)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    drawn.latents[0, 0] = value
    assert float(update(state, backward(state, [drawn], FLOAT8), FLOAT8).finite) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    config = settings(data, steps=4, packs_per_step=1, precision="float8")
    config = replace(config, model=replace(config.model, depth=1, hidden_size=32))
    train(config, data, tmp_path / "whole", device="cpu")
    for steps in (2, 4):
        train(replace(config, steps=steps), data, tmp_path / "parts", device="cpu")
    whole, parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_several_processes_are_refused() -> None:
    two = Team(ranks=Ranks(rank=0, world=2), device=torch.device("cpu"))
    with pytest.raises(BackendError, match="in 2 processes"):
        TrainState.create(FLOAT8, torch.device("cpu"), two)


def test_the_command_refuses_a_device_without_such_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    data = dataset(tmp_path, multiple_of_cells=2)
    run = ["train", "tutorial", "--data", str(data), "--out", str(tmp_path / "run"), "--precision", "float8"]
    assert main([*run, "--device", "cpu"]) == 2
    assert "a CUDA device, and this is cpu" in capsys.readouterr().err
