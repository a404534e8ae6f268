"""The benchmarks on a GPU, small and without the released code: what only a GPU gives is there."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import __main__

pytestmark = pytest.mark.gpu


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", *arguments, "--preset", "mini", "--device", "cuda", "--out", str(out)]
    )
    __main__.main()
    return json.loads(out.read_text())["results"]


def test_training_is_recorded_and_its_kernels_have_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--tokens", "4096", "--repeats", "4", "--profile", str(tmp_path / "trace.json.gz"))
    ours = run(monkeypatch, tmp_path / "t.json", "training", *options)["ours"]
    assert ours["recorded"]
    assert 0 < ours["peak_gib"] <= ours["peak_reserved_gib"]
    kinds = ours["profile"]["kinds"]
    assert {"products", "attention", "norms and modulation", "rotation", "GELU", "optimizer"} <= kinds.keys()
    # an annotation counted beside its kernels would make the device busier than the step is long
    assert ours["profile"]["ms"] < 1.2 * ours["ms"]
    assert (tmp_path / "trace.json.gz").stat().st_size > 0


def test_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--cases", "256x256:4", "512x256:1", "--steps", "6", "--repeats", "2")
    found = run(monkeypatch, tmp_path / "s.json", "sampling", *options)
    assert all(case["ours"]["ms_a_step"] > 0 and case["floor"]["ms"] > 0 for case in found["cases"])
