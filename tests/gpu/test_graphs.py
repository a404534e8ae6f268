"""Training with the step recorded as a CUDA graph is training without, to rounding."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyres.packing.draws import DrawsConfig
from anyres.train.loop import train
from tests.distributed.test_many_processes import figures
from tests.made import MeanColours, dataset
from tests.train.test_run import last_state, losses, settings
from tests.train.test_teacher import aligned

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("packs_per_step", "power"), [(1, 1.0), (2, 1.0), (1, 0.0), (2, 0.5)])
def test_a_recorded_run_is_an_eager_one_to_rounding(packs_per_step: int, power: float, tmp_path: Path) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    draws = DrawsConfig(native=1.5, tokens_power=-0.5) if power == 0 else DrawsConfig()
    for mode in ("off", "on"):
        config = settings(data, steps=12, packs_per_step=packs_per_step, loss_tokens_power=power, cuda_graph=mode)
        config = replace(config, packing=replace(config.packing, draws=draws))
        train(config, data, tmp_path / mode, device="cuda")
    eager, recorded = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert len(eager) == 12
    assert all(abs(recorded[step] - eager[step]) < 0.01 * eager[step] for step in eager)
    assert last_state(tmp_path / "on").keys() == last_state(tmp_path / "off").keys()
    # all images are so small, and the packs' padding differs from step to step
    parts, wholes = (figures(tmp_path / "on", "train", name) for name in ("loss_flow_tokens_1_64", "loss_flow"))
    assert parts == pytest.approx(wholes, rel=1e-5)


@pytest.mark.parametrize("packs_per_step", [1, 2])
def test_a_recorded_run_aligns_with_a_teacher_until_it_ends(packs_per_step: int, tmp_path: Path) -> None:
    """It is recorded once more where the term ends; what is then left out has no gradient, as in an eager run."""
    data = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    for mode in ("off", "on"):
        config = replace(settings(data, steps=12), cuda_graph=mode, packs_per_step=packs_per_step)
        ended = train(aligned(config, stop_after=6), data, tmp_path / mode, device="cuda")
        assert ended.stopped is None  # such as by `timeout`, whose signal a run takes for its own
    eager, recorded = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert len(eager) == 12
    assert all(abs(recorded[step] - eager[step]) < 0.01 * eager[step] for step in eager)
    assert eager[7] < eager[6] - 0.1  # a term less


def test_a_recorded_run_aligns_with_a_teacher_that_sees_the_images(tmp_path: Path) -> None:
    data = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    config = replace(settings(data, steps=8), cuda_graph="on")
    train(aligned(config), data, tmp_path / "stored", device="cuda")
    sees = aligned(config, images=str(tmp_path / "images"))
    train(sees, data, tmp_path / "sees", device="cuda", teacher=MeanColours())
    stored, seen = losses(tmp_path / "stored"), losses(tmp_path / "sees")
    assert all(abs(stored[step] - seen[step]) < 0.01 * stored[step] for step in stored)


def test_a_recorded_run_goes_on_after_the_term_has_ended(tmp_path: Path) -> None:
    data = dataset(tmp_path, teacher=MeanColours(), teacher_dtype="int8", multiple_of_cells=2)
    config = aligned(replace(settings(data, steps=8), cuda_graph="on"), stop_after=2)
    train(config, data, tmp_path / "whole", device="cuda")
    for steps in (1, 4, 8):
        train(replace(config, steps=steps), data, tmp_path / "parts", device="cuda")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(parts) == 8
    assert all(abs(whole[step] - parts[step]) < 0.01 * whole[step] for step in whole)
