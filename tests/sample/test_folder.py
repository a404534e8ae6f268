"""A pipeline's folder: what goes in comes back, and nothing else is lost."""

import json
import os

import pytest
import torch

from anyres.errors import CheckpointError, DataError
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import SamplingSettings, make_requests
from tests.sample.helpers import small_autoencoder, small_pipeline


def load(folder):
    return Pipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("solver", ["euler", "sde"])
def test_a_pipeline_comes_back_from_its_folder_and_from_its_runs(tmp_path, solver):
    pipe = small_pipeline(defaults=SamplingSettings(steps=3, solver=solver, guidance=3.0, extrapolation="yarn"))
    pipe.save_pretrained(tmp_path / "model")
    pipe.save_pretrained(tmp_path / "model")  # over itself
    requests = make_requests("cloud", ["24x16", "32x8"], 7, table=pipe.labels, px_per_token=pipe.px_per_token)
    for folder in (tmp_path / "model", tmp_path):  # also by a run's folder
        again = load(folder)
        assert (again.defaults, again.labels, again.name) == (pipe.defaults, pipe.labels, pipe.name)
        assert (again.scaling, again.path, again.trained_side) == (pipe.scaling, pipe.path, pipe.trained_side)
        for ours, theirs in zip(
            again.latents(requests, again.defaults), pipe.latents(requests, pipe.defaults), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    assert not list(tmp_path.glob(".*"))


def test_folders_that_hold_something_else_are_not_replaced(tmp_path):
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(DataError, match="holds no pipeline"):
        small_pipeline().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_files_beside_a_pipelines_own_survive_saving_again(tmp_path):
    folder = tmp_path / "model"
    small_pipeline().save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"x")
    other = small_pipeline(seed=3, depth=1)
    other.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "figures" / "one.png").read_bytes() == b"x"
    assert load(folder).model.config == other.model.config


def test_saving_through_a_link_writes_what_it_points_to(tmp_path):
    small_pipeline().save_pretrained(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    small_pipeline(depth=1).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real").model.config.depth == 1


def test_a_failed_save_leaves_the_old_pipeline(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    small_pipeline().save_pretrained(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, os.strerror(28))

    broken = small_pipeline(depth=1)
    monkeypatch.setattr(broken.autoencoder, "save", full)
    with pytest.raises(DataError, match="disk is full"):
        broken.save_pretrained(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("missing", ["pipeline.json", "labels.json", "config.json", "model.safetensors", "autoencoder"])
def test_a_missing_part_is_named(tmp_path, missing):
    small_pipeline().save_pretrained(tmp_path / "model")
    part = tmp_path / "model" / missing
    part.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=missing.replace(".", r"\.")):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 2, "format version 1"),
        ("path", "liner", "path is 'liner'"),
        ("pth", "linear", "unknown field 'pth'"),
        ("trained_side", "6", "trained_side"),
        ("scaling", {"shift": [0.0], "factor": [1.0]}, "1 channels of the scaling"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, field, value, message):
    small_pipeline().save_pretrained(tmp_path)
    description = json.loads((tmp_path / "pipeline.json").read_text())
    (tmp_path / "pipeline.json").write_text(json.dumps(description | {field: value}))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_another_autoencoder_is_refused(tmp_path):
    small_pipeline().save_pretrained(tmp_path)
    small_autoencoder(seed=9).save(tmp_path / "autoencoder")
    with pytest.raises(CheckpointError, match="trained on latents of"):
        load(tmp_path)


def test_the_dtype_is_the_networks_alone(tmp_path):
    small_pipeline().save_pretrained(tmp_path)
    half = Pipeline.from_pretrained(tmp_path, device="cpu", dtype="bfloat16")
    assert str(half.model.compute_dtype) == "torch.bfloat16"
    assert str(half.autoencoder.basis.dtype) == "torch.float32"
    assert str(load(tmp_path).model.compute_dtype) == "torch.float32"
