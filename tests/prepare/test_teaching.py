"""A teacher's features beside the latents: aligned with the tokens, kept through kills, and one teacher a folder."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.cli import main
from anyres.errors import DataError
from anyres.files import read_json
from anyres.grid import Size
from anyres.latents.features import TeacherInfo
from anyres.latents.format import LatentDataset
from anyres.latents.patch_pca import PatchPCA
from anyres.prepare.encode import prepare
from tests.made import MeanColours, dataset, picture, picture_folder
from tests.prepare.killing import contents, kill, no_fsync, run
from tests.prepare.made_sources import hub_rows, options


def similar(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=1)


@pytest.mark.parametrize(("dtype", "multiple"), [("float16", 1), ("int8", 1), ("float16", 2)])
def test_features_are_of_the_same_squares_as_the_latents(tmp_path, dtype, multiple):
    """Both flips, every version of an image: against the colours that the decoded latents have there."""
    options = {"teacher_dtype": dtype, "multiple_of_cells": multiple, "rescale": ("cat",), "reshaped": 2}
    data = LatentDataset.open(dataset(tmp_path, teacher=MeanColours(), images_per_shard=5, max_side=64, **options))
    assert data.info.teacher == TeacherInfo(identity="mean-colours (0)", dim=3, cells=multiple, px=8, dtype=dtype)
    features, autoencoder = data.features(), data.autoencoder()
    assert isinstance(autoencoder, PatchPCA)
    assert {tuple(cells) for cells in data.cells.tolist()} >= {(4, 4), (2, 4)}
    for row in range(len(data)):
        height, width = data.cells[row].tolist()
        for flipped in (False, True):
            latent = data.read_raw(row, flipped=flipped).float()
            image = autoencoder.decode(latent.T.reshape(1, -1, height, width))[0]
            squares = torch.nn.functional.avg_pool2d(127.5 * image - 0.5, 8 * multiple).flatten(1).T
            found = features.read(row, flipped=flipped)
            assert found.dtype == getattr(torch, dtype)
            assert found.shape == squares.shape
            seen = similar(found, squares)[squares.norm(dim=1) > 30]  # near grey a rounding turns the direction
            assert seen.min() > 0.97, (row, flipped)


def test_without_a_teacher_nothing_is_there(tmp_path):
    folder = dataset(tmp_path)
    data = LatentDataset.open(folder)
    assert data.info.teacher is None
    assert not list(folder.glob("teacher-*"))
    with pytest.raises(DataError, match="holds no teacher's features") as refused:
        data.features()
    assert "--no-repa" in refused.value.fix


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = picture_folder(tmp_path_factory.mktemp("teaching") / "images", ("cat", "dog"), each=3)
    picture(Size(96, 120), 77).save(root / "dog" / "last.png")
    (root / "dog" / "zz.png").write_bytes(b"no image")
    return root


@pytest.mark.slow
def test_killed_before_each_change_of_the_disk(images, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_fsync)
    run(images, tmp_path / "whole", MeanColours())
    wanted = contents(tmp_path / "whole")
    assert {"teacher-00000.safetensors", "teacher-00001.safetensors"} < set(wanted)
    instant = 0
    while True:
        instant += 1
        out = tmp_path / f"{instant}"
        if not kill(images, out, instant, teacher=MeanColours()):
            break
        run(images, out, MeanColours())
        assert contents(out) == wanted, f"killed before change {instant}"
        shutil.rmtree(out)
    assert instant > 30


def test_one_teacher_a_folder(images, tmp_path):
    run(images, tmp_path / "plain")
    with pytest.raises(DataError, match=r"was begun with no teacher, and now it is the teacher mean-colours \(0\)"):
        run(images, tmp_path / "plain", MeanColours())
    run(images, tmp_path / "seen", MeanColours())
    before = contents(tmp_path / "seen")
    with pytest.raises(DataError, match="and now it is no teacher"):
        run(images, tmp_path / "seen")
    with pytest.raises(DataError, match=r"channels in float16.*and now it is.*channels in int8"):
        run(images, tmp_path / "seen", MeanColours(), teacher_dtype="int8")
    assert contents(tmp_path / "seen") == before
    assert run(images, tmp_path / "seen", MeanColours()).added == 0


def test_images_that_are_added_have_features_too(images, tmp_path):
    out, more = tmp_path / "data", tmp_path / "images"
    run(images, out, MeanColours())
    shutil.copytree(images, more)
    picture(Size(24, 32), 500).save(more / "cat" / "new.png")
    run(more, out, MeanColours())
    data = LatentDataset.open(out)
    assert data.sources[-1] == "cat/new.png"
    assert len(data.features().read(len(data) - 1)) == 12


class _Wide(MeanColours):
    """With so many channels that megabytes are stored."""

    def maps(self, images):
        return super().maps(images).repeat(1, 300, 1, 1)


@pytest.mark.parametrize("options", [{}, {"variants": ("native", "square-256"), "upscale": True}])
def test_the_size_on_disk_is_stated_before_it_starts(images, tmp_path, caplog, options):
    """Of all versions and both flips; so few images are all looked at, and the estimate is exact."""
    run(images, tmp_path / "data", _Wide(), **options)
    said = next(record for record in caplog.records if "take about" in record.message)
    assert said.levelno >= logging.WARNING  # not for -v only
    size = sum(path.stat().st_size for path in (tmp_path / "data").glob("teacher-*"))
    assert f"take about {size / 2**20:,.1f} MiB of disk, where " in said.message
    assert "--teacher-dtype int8 would take half" in said.message
    caplog.clear()
    run(images, tmp_path / "data", _Wide(), **options)
    assert "take about" not in caplog.text  # nothing is left to do


def test_of_a_stream_the_size_of_each_feature_is_stated(images, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    hub_rows(images).to_parquet(tmp_path / "source" / "train.parquet")
    source = {"images": Path(f"hf:{tmp_path}/source"), "streaming": True, "autoencoder": "patch-pca"}
    report = prepare(options(source, tmp_path / "data"), _Wide())
    # 900 channels of 2 bytes, of two flips
    assert "a stream's features by the teacher mean-colours (0)" in caplog.text
    assert "They will take 3.5 KiB of disk for each 8x8 px of a picture, where " in caplog.text
    data = LatentDataset.open(tmp_path / "data")
    assert len(data.features().read(0)) == data.cells[0].prod()
    assert report.info.images == len(data) == 7


def test_bad_teachers_are_refused_before_anything_is_written(images, tmp_path, refused):
    for arguments, said in (
        (["--teacher", "dino"], "got teacher 'dino'"),
        (["--teacher", "radio"], "for non-commercial use only"),
        (["--teacher", "efficientnet-lite2", "--teacher-weights", "x"], "got weights for 'efficientnet-lite2'"),
        (["--teacher-weights", "x"], "teacher_weights = 'x' and no teacher"),
    ):
        assert said in refused(images, "--out", tmp_path / "data", "--workers", "1", *arguments)
        assert not list(tmp_path.glob("data/shard-*"))


def test_features_that_are_damaged_are_named(tmp_path):
    folder = dataset(tmp_path, teacher=MeanColours(), images_per_shard=5)
    shard = folder / "teacher-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    data = LatentDataset.open(folder)  # the latents are whole
    with pytest.raises(DataError, match=r"teacher-00001\.safetensors cannot be read: it is shorter"):
        data.features()
    (folder / "teacher-00000.safetensors").replace(shard)
    with pytest.raises(DataError, match=r"teacher-00000\.safetensors is missing"):
        data.features()
    shutil.copy(folder / "teacher-00004.safetensors", folder / "teacher-00000.safetensors")  # of an image less
    shard.write_bytes(whole)
    with pytest.raises(DataError, match=r"has \d+ features, and the manifest wants \d+"):
        LatentDataset.open(folder).features()


def test_by_the_command_line(images, tmp_path, capsys):
    command = ["prepare", images, "--out", tmp_path / "data", "--multiple-of-cells", "2"]
    command += ["--teacher", "efficientnet-lite2", "--teacher-dtype", "int8", "--device", "cpu", "--workers", "1"]
    assert main([*map(str, command)]) == 0
    assert "teacher      efficientnet-lite2 (" in capsys.readouterr().out
    assert read_json(tmp_path / "data" / "dataset.json")["teacher"]["dim"] == 120
    features = LatentDataset.open(tmp_path / "data").features()
    assert np.abs(features.read(0).numpy().astype(int)).max(axis=1).min() == 127
