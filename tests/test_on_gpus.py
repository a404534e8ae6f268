"""Which runs of pytest see GPUs."""

import os

import pytest
import torch

from tests.on_gpus import ASKED, ask_for_gpus, hide_gpus


@pytest.mark.parametrize(
    "line",
    [
        "-m gpu",
        "-q -m multi_gpu -x",
        "-mgpu",
        "tests/gpu",
        "-n 4 tests/gpu/test_fused.py::test_mlp",
        "gpu/test_lora.py",
    ],
)
def test_a_run_that_asks_for_gpus(line: str) -> None:
    assert ask_for_gpus(line.split())


@pytest.mark.parametrize("line", ["", "-q", "tests/model", "-k gpu", "-m slow", "/home/me/gpu/anyres/tests/model"])
def test_a_run_that_does_not(line: str) -> None:
    assert not ask_for_gpus(line.split())


def test_not_gpu_is_no_wish_for_one() -> None:
    assert not ask_for_gpus(["-m", "not gpu"])


def test_processes_that_pytest_starts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, seen in (("0", ""), ("1", "3")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        monkeypatch.setenv(ASKED, asked)
        hide_gpus()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_this_run_sees_none() -> None:
    assert os.environ[ASKED] == "0"
    assert not torch.cuda.is_available()
