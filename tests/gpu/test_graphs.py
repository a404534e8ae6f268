"""Training with the step recorded as a CUDA graph is training without, to rounding."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyres.train.loop import train
from tests.made import dataset
from tests.train.test_run import last_state, losses, settings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("packs_per_step", [1, 2])
def test_a_recorded_run_is_an_eager_one_to_rounding(packs_per_step: int, tmp_path: Path) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    for mode in ("off", "on"):
        config = replace(settings(data, steps=12), cuda_graph=mode, packs_per_step=packs_per_step)
        train(config, data, tmp_path / mode, device="cuda")
    eager, recorded = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert len(eager) == 12
    assert all(abs(recorded[step] - eager[step]) < 0.01 * eager[step] for step in eager)
    assert last_state(tmp_path / "on").keys() == last_state(tmp_path / "off").keys()
