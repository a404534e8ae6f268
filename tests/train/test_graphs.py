"""Where a run records its step; `tests/gpu/test_graphs.py` records it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from anyres.cli import main
from anyres.errors import BackendError
from anyres.train import graphs, state
from anyres.train.graphs import records
from anyres.train.state import TrainState
from tests.made import dataset
from tests.train.test_step import CONFIG, CPU

GPU = torch.device("cuda")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is varlen in bfloat16, whatever this machine has."""
    monkeypatch.setattr(
        graphs, "pick_backend", lambda name, device, dtype: "varlen" if dtype == torch.bfloat16 else "sdpa"
    )


def test_a_gpu_records_unless_it_is_told_not_to(able: None) -> None:
    assert [records(replace(CONFIG, cuda_graph=mode), GPU) for mode in ("auto", "on", "off")] == [True, True, False]


def test_without_varlen_only_insisting_is_an_error(able: None) -> None:
    exact = replace(CONFIG, precision="float32")
    assert not records(exact, GPU)
    with pytest.raises(BackendError, match="this run has sdpa"):
        records(replace(exact, cuda_graph="on"), GPU)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_record(able: None, monkeypatch: pytest.MonkeyPatch, parallel: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert records(replace(CONFIG, parallel=parallel), GPU)


@pytest.mark.parametrize(("parallel", "recorded"), [("ddp", True), ("fsdp", False)])
def test_parts_of_weights_are_not_recorded_by_a_torch_that_forgets_page_locked_memory(
    able: None, monkeypatch: pytest.MonkeyPatch, parallel: str, recorded: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0+cu128"))
    config = replace(CONFIG, parallel=parallel)
    assert records(config, GPU) == recorded
    if not recorded:
        with pytest.raises(BackendError, match=r"needs torch 2\.11 .* this is 2\.10\.0"):
            records(replace(config, cuda_graph="on"), GPU)


def test_a_state_records_where_the_run_does_and_not_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainState.create(CONFIG, CPU).graphed is None
    monkeypatch.setattr(state, "records", lambda config, device: True)
    assert TrainState.create(CONFIG, CPU).graphed is not None


def test_a_run_that_cannot_do_what_it_is_told_ends_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = dataset(tmp_path, multiple_of_cells=2), tmp_path / "run"
    command = ["train", "tutorial", "--data", data, "--out", out, "--device", "cpu", "--cuda-graph", "on"]
    assert main([*map(str, command)]) == 2
    message = capsys.readouterr().err
    assert "cuda_graph = 'on' needs a CUDA device, and this run is on cpu" in message
    assert "to fix: use --cuda-graph auto or off" in message
    assert not out.exists()
