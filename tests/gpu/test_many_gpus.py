"""Training on two GPUs, with NCCL, is training on one, to rounding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from anyres.train.loop import train
from tests.distributed.processes import together
from tests.distributed.test_many_processes import figures, plan, same
from tests.made import dataset
from tests.train.test_run import losses

pytestmark = pytest.mark.multi_gpu


def on_gpus(config: TrainConfig, data: Path, out: Path) -> Any:
    return train(config, data, out, device="cuda").progress


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_loss_on_two_gpus_is_that_on_one_in_float32(data: Path, tmp_path: Path, parallel: str) -> None:
    config = plan(data, steps=12, precision="float32", attention="sdpa", parallel=parallel)
    config = replace(config, pictures=PicturesConfig(every=12, sizes=("32x32",), labels=1))
    together(1, on_gpus, config, data, tmp_path / "one")
    progress = together(2, on_gpus, config, data, tmp_path / "two")
    assert progress[0] == progress[1]
    assert same(tmp_path / "two", tmp_path / "one", tolerance=1e-4)
    one, two = (figures(tmp_path / name, "held_out", "loss") for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_and_near_it_in_bfloat16_with_varlen_and_kernels(data: Path, tmp_path: Path, parallel: str) -> None:
    config = plan(data, steps=12, parallel=parallel, held_out=HeldOutConfig(share=0))
    together(1, on_gpus, config, data, tmp_path / "one")
    together(2, on_gpus, config, data, tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 12
    assert all(abs(two[step] - one[step]) < 0.02 * one[step] for step in one)


def test_a_run_goes_on_on_another_number_of_gpus(data: Path, tmp_path: Path) -> None:
    exact = plan(data, steps=12, precision="float32", attention="sdpa")
    together(1, on_gpus, exact, data, tmp_path / "whole")
    for steps, count, parallel in ((4, 2, "fsdp"), (8, 1, "auto"), (12, 2, "ddp")):
        together(count, on_gpus, replace(exact, steps=steps, parallel=parallel), data, tmp_path / "parts")
    assert same(tmp_path / "parts", tmp_path / "whole", tolerance=1e-4)
