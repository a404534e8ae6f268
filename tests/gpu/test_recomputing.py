"""Activation checkpointing on a GPU: the same run, recorded or not, in less memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.grid import Grid
from anyres.packing.plan import PackingConfig
from anyres.train.config import TrainConfig
from anyres.train.loop import train
from anyres.train.losses import draw
from anyres.train.state import TrainState
from anyres.train.step import backward
from tests.made import MeanColours, dataset
from tests.model.helpers import random_model, small_config
from tests.train.test_run import last_state, losses, settings
from tests.train.test_step import pack_of
from tests.train.test_teacher import aligned

pytestmark = pytest.mark.gpu

WIDE = TrainConfig(
    model=small_config(hidden_size=256, num_heads=4, depth=8, channels=6, patch_size=2),
    packing=PackingConfig(budget=4096),
    steps=10,
    cuda_graph="off",
)


@pytest.mark.parametrize(("mode", "packs_per_step"), [("off", 1), ("on", 1), ("on", 2)])
def test_a_run_that_recomputes_is_one_that_keeps(mode: str, packs_per_step: int, tmp_path: Path) -> None:
    data = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    for recomputed in (0, 1, 2):
        config = replace(settings(data, steps=8), cuda_graph=mode, packs_per_step=packs_per_step)
        config = aligned(replace(config, recomputed_blocks=recomputed), stop_after=5)
        train(config, data, tmp_path / str(recomputed), device="cuda")
    kept = losses(tmp_path / "0")
    assert len(kept) == 8
    for recomputed in ("1", "2"):
        found = losses(tmp_path / recomputed)
        assert all(abs(found[step] - kept[step]) < 0.01 * kept[step] for step in kept)
        assert last_state(tmp_path / recomputed).keys() == last_state(tmp_path / "0").keys()


def test_a_gradient_is_the_same_to_rounding_and_takes_less_memory() -> None:
    device = torch.device("cuda")
    drawn = draw(pack_of([Grid(16, 16)] * 16), WIDE, 0, dropout=0.0)
    gradients, peaks = [], []
    for recomputed in (0, 4, 7, 8):
        state = TrainState.create(replace(WIDE, recomputed_blocks=recomputed), device)
        state.model.load_state_dict(random_model(WIDE.model).state_dict())
        state.update.refresh()
        backward(state, [drawn], WIDE)
        state.update.network.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        backward(state, [drawn], WIDE)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        gradients.append(torch.cat([weight.grad.flatten().float() for weight in state.update.network.parameters()]))
    assert peaks[0] > 1.5 * peaks[1] > 1.5 * 1.3 * peaks[2]
    assert peaks[3] == pytest.approx(peaks[2], rel=0.1)  # the last block's is free too late to matter
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() < 0.02 * gradients[0].norm()
