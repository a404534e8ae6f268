"""A pipeline's folder: what goes in comes back, and nothing else is lost."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyres.errors import CheckpointError, DataError
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import SamplingSettings, make_requests
from tests.made import dc_pipeline
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_16_bits_computes_in_float32(tmp_path, dtype):
    pipe = dc_pipeline()
    pipe.save_pretrained(tmp_path, dtype=dtype, max_shard_size="30KB")
    files = [*tmp_path.glob("model-*.safetensors"), *tmp_path.glob("autoencoder/*-*.safetensors")]
    assert {file.parent.name for file in files} == {tmp_path.name, "autoencoder"}
    assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {dtype}
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) == sum(f.stat().st_size for f in files)

    again = load(tmp_path)
    for ours, theirs in ((again.model, pipe.model), (again.autoencoder.network, pipe.autoencoder.network)):
        stored = {name: value.to(dtype).float() for name, value in theirs.state_dict().items()}
        assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
        assert all(torch.equal(value, stored[name]) for name, value in ours.state_dict().items())
    rounded = dc_pipeline()
    rounded.model.to(dtype).float()
    rounded.autoencoder.network.to(dtype).float()
    request = {"labels": "planet", "sizes": "32x16", "seeds": 3}
    assert again(**request)[0].tobytes() == rounded(**request)[0].tobytes()


def test_rounding_changes_which_autoencoder_it_is_and_rounding_again_does_not(tmp_path):
    pipe = dc_pipeline()
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "half", dtype=torch.float16)
    load(tmp_path / "half").save_pretrained(tmp_path / "again", dtype=torch.float16)
    whole, half, again = (load(tmp_path / name).autoencoder.identity for name in ("whole", "half", "again"))
    assert whole.same_as(pipe.autoencoder.identity)
    assert not half.same_as(whole)
    assert again.same_as(half)


def test_a_pipeline_tells_nobody_where_its_parts_were(tmp_path):
    pipe = dc_pipeline()
    assert pipe.autoencoder.identity.name.startswith("/")
    pipe.save_pretrained(tmp_path / "one")
    load(tmp_path / "one").save_pretrained(tmp_path / "two")
    for path in tmp_path.rglob("*.json"):
        assert pipe.autoencoder.identity.name not in path.read_text()
        assert str(tmp_path) not in path.read_text()


def test_a_smaller_pipeline_leaves_no_shard_of_a_larger_one(tmp_path):
    dc_pipeline().save_pretrained(tmp_path, max_shard_size="20KB")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")}
    dc_pipeline().save_pretrained(tmp_path, max_shard_size="100KB", dtype=torch.float16)
    after = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")}
    named = {
        index.parent.relative_to(tmp_path) / name
        for index in tmp_path.rglob("*.index.json")
        for name in json.loads(index.read_text())["weight_map"].values()
    }
    assert after == named | {Path("autoencoder/diffusion_pytorch_model.safetensors")}
    assert 2 < len(after) < len(before)


def test_folders_that_hold_something_else_are_not_replaced(tmp_path):
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(DataError, match="holds no pipeline"):
        small_pipeline().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_files_beside_a_pipelines_own_survive_saving_again(tmp_path):
    folder = tmp_path / "model"
    small_pipeline().save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    (folder / "model_ema.safetensors").write_bytes(b"mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"x")
    other = small_pipeline(seed=3, depth=1)
    other.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "model_ema.safetensors").read_bytes() == b"mine"
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

    def full(*_, **__):
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
