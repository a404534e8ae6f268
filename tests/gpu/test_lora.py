"""LoRA on a GPU: the update, and a recorded run against an eager one."""

from dataclasses import replace
from pathlib import Path

import pytest

from anyres.sample.pipeline import Pipeline
from anyres.train.loop import train
from tests.train.made_base import base_folder, config_of, data_for
from tests.train.test_lora_update import check_equal, check_rounded
from tests.train.test_run import losses

pytestmark = pytest.mark.gpu


def test_the_fused_update_equals_the_plain_one() -> None:
    check_equal("cuda")


def test_the_network_computes_with_rounded_weights() -> None:
    check_rounded("cuda")


@pytest.mark.parametrize("packs_per_step", [1, 2])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_recorded_run_is_an_eager_one_to_rounding(rank: int, packs_per_step: int, tmp_path: Path) -> None:
    base = base_folder(tmp_path)
    data = data_for(base, tmp_path)
    for mode in ("off", "on"):
        config = replace(config_of(base, data, rank), steps=12, cuda_graph=mode, packs_per_step=packs_per_step)
        train(config, data, tmp_path / mode, device="cuda")
    eager, recorded = losses(tmp_path / "off"), losses(tmp_path / "on")
    assert len(eager) == 12
    assert all(abs(recorded[step] - eager[step]) < 0.01 * eager[step] for step in eager)
    assert eager[12] != eager[1]
    if rank:
        pytest.importorskip("peft")
    pipe = Pipeline.from_pretrained(tmp_path / "on", device="cuda")
    assert pipe("dog", "48x32", steps=2)[0].size == (48, 32)
