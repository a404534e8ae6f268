"""Where a run compiles its blocks; `tests/gpu/test_compiling.py` compiles them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.cli import main
from anyres.errors import BackendError
from anyres.train import compiling, state
from anyres.train.compiling import compiles
from anyres.train.state import TrainState
from tests.made import dataset
from tests.train.test_step import CONFIG, CPU

GPU = torch.device("cuda")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is there, and attention is varlen unless another is asked for, whatever this machine has."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(
        compiling, "pick_backend", lambda name, device, dtype: "varlen" if dtype == torch.bfloat16 else "sdpa"
    )


def test_a_gpu_compiles_unless_it_is_told_not_to(able: None) -> None:
    assert [compiles(replace(CONFIG, compile=mode), GPU) for mode in ("auto", "on", "off")] == [True, True, False]


def test_without_triton_only_insisting_is_an_error(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not compiles(CONFIG, GPU)
    with pytest.raises(BackendError, match="Triton, which is not installed"):
        compiles(replace(CONFIG, compile="on"), GPU)


def test_without_varlen_only_insisting_is_an_error(able: None) -> None:
    exact = replace(CONFIG, precision="float32")
    assert not compiles(exact, GPU)
    with pytest.raises(BackendError, match="this run has sdpa"):
        compiles(replace(exact, compile="on"), GPU)


def test_blocks_are_compiled_where_the_run_compiles_and_not_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(state, "compile_blocks", compiled.append)
    TrainState.create(CONFIG, CPU)
    assert compiled == []
    monkeypatch.setattr(state, "compiles", lambda config, device: True)
    created = TrainState.create(CONFIG, CPU)
    assert compiled == [created.model], "the network that is trained, not the average"


def test_a_run_that_cannot_do_what_it_is_told_ends_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = dataset(tmp_path, multiple_of_cells=2), tmp_path / "run"
    command = ["train", "tutorial", "--data", data, "--out", out, "--device", "cpu", "--compile", "on"]
    assert main([*map(str, command)]) == 2
    message = capsys.readouterr().err
    assert "compile = 'on' needs a CUDA device, and this run is on cpu" in message
    assert "to fix: use --compile auto or off" in message
    assert not out.exists()
