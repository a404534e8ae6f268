"""Sampling with the blocks' products in 8 bits."""

from pathlib import Path

import pytest

from anyres.errors import BackendError, ConfigError
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import SamplingSettings, make_requests
from anyres.sample.writer import recipe_of
from tests.interpreted import round_to_float8
from tests.sample.helpers import small_pipeline

pytest.importorskip("triton")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_pipeline(depth=1, hidden_size=32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_samples_are_those_of_bfloat16_up_to_the_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through `anyres.Pipeline`, from the weights as they are stored; the recipe says what they were made with."""
    round_to_float8(monkeypatch)
    settings, made = SamplingSettings(steps=2, guidance=2.0), []
    for dtype in ("bfloat16", "float8"):
        pipe = Pipeline.from_pretrained(folder, device="cpu", dtype=dtype)
        requests = make_requests(["apple", "7"], ["24x16", "8x40"], None, table=pipe.labels, px_per_token=8)
        made.append(pipe.latents(requests, settings))
        recipe = recipe_of(pipe, settings, requests[0], model="small", weaker=None)
        assert recipe["dtype"] == dtype
    for one, other in zip(*made, strict=True):
        assert 0 < (one - other).norm() < 0.1 * one.norm()


def test_what_cannot_be_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="got dtype 'float4'") as found:
        Pipeline.from_pretrained(folder, device="cpu", dtype="float4")
    assert "float8" in found.value.wanted
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="a CUDA device, and this is cpu"):
        Pipeline.from_pretrained(folder, device="cpu", dtype="float8")
