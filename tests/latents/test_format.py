"""Reading a dataset: rows, the held-out choice, and what is missing, damaged or of another making."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from anyres.cli import main
from anyres.errors import AnyResError, CheckpointError, ConfigError, DataError
from anyres.grid import Cells, patchify
from anyres.latents.format import LatentDataset
from tests.made import dataset, patch_pca, picture_folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("format"), images_per_shard=5, multiple_of_cells=2)


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def test_rows_read_by_many_threads_are_those_read_by_one(original):
    one, many = LatentDataset.open(original), LatentDataset.open(str(original))
    numbers = [number for _ in range(4) for number in range(len(one))]
    with ThreadPoolExecutor(8) as pool:
        for number, latent in zip(numbers, pool.map(many.read, numbers), strict=True):
            assert torch.equal(latent, one.read(number))


def test_a_row_read_is_the_readers_own(original):
    data = LatentDataset.open(original)
    before = data.read_raw(0)
    data.read_raw(0).zero_()
    assert torch.equal(data.read_raw(0), before)


def test_what_is_read_can_be_patched(original):
    data = LatentDataset.open(original)
    for row in range(len(data)):
        tokens = patchify(data.read(row), Cells(*data.cells[row].tolist()), 2)
        assert len(tokens) == data.lengths(2)[row]


@pytest.mark.parametrize("patch", [3, 4])
def test_a_patch_that_does_not_divide_names_an_image(original, patch):
    data = LatentDataset.open(original)
    wrong = [row for row in range(len(data)) if (data.cells[row] % patch).any()]
    height, width = data.cells[wrong[0]].tolist()
    with pytest.raises(DataError) as error:
        data.lengths(patch)
    assert f"{len(wrong)} of {len(data)} latents" in str(error.value)
    assert f"{data.sources[wrong[0]]} has {width}x{height} cells" in str(error.value)
    assert f"--multiple-of-cells {patch}" in str(error.value)


def test_held_out_follows_content_alone(tmp_path):
    images = picture_folder(tmp_path / "images", each=20)
    for number in range(3):  # copies in another class and by another name
        shutil.copy(images / "cat" / f"{number:05d}.png", images / "dog" / f"copy-{number}.png")
    command = ["prepare", images, "--device", "cpu", "--variants", "native", "square-256", "--upscale", "--out"]
    assert main([*map(str, command), str(tmp_path / "data")]) == 0
    data = LatentDataset.open(tmp_path / "data")
    chosen = data.held_out(0.3)
    by_content = {}
    for name, held in zip(data.content_hashes, chosen.tolist(), strict=True):
        assert by_content.setdefault(name, held) == held, "variants and copies fall on one side"
    assert len(by_content) == 40 < len(data)
    assert 0.05 < chosen.mean() < 0.6
    assert not data.held_out(0.0).any()
    assert data.held_out(1.0).all()
    assert (chosen <= data.held_out(0.5)).all(), "a larger share holds the smaller"
    shutil.rmtree(images / "dog")
    assert main([*map(str, command), str(tmp_path / "cats")]) == 0
    cats = LatentDataset.open(tmp_path / "cats")
    assert [by_content[name] for name in cats.content_hashes] == cats.held_out(0.3).tolist()
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="a held-out share of"):
            data.held_out(share)


def test_the_autoencoder_is_found_where_the_data_went(folder):
    data = LatentDataset.open(folder)
    assert data.autoencoder().identity.same_as(data.info.autoencoder)


def test_another_autoencoder_is_refused(folder):
    patch_pca().save(folder / "autoencoder")
    with pytest.raises(CheckpointError, match=r"was prepared with PatchPCA .*, but there is now PatchPCA"):
        LatentDataset.open(folder).autoencoder()


def test_a_named_autoencoder_that_is_gone_or_replaced(tmp_path):
    images = picture_folder(tmp_path / "images", each=2)
    patch_pca().save(tmp_path / "vae")
    command = ["prepare", images, "--out", tmp_path / "data", "--autoencoder", tmp_path / "vae", "--device", "cpu"]
    assert main([*map(str, command)]) == 0
    shutil.rmtree(tmp_path / "data" / "autoencoder")
    data = LatentDataset.open(tmp_path / "data")
    with pytest.raises(AnyResError):
        data.autoencoder()  # its name is not a folder's
    (tmp_path / "data" / "autoencoder").mkdir()
    with pytest.raises(CheckpointError, match="not an autoencoder's folder"):
        data.autoencoder()


def refusal(folder):
    with pytest.raises(DataError) as error:
        LatentDataset.open(folder)
    return str(error.value)


def test_folders_that_are_no_dataset(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "none")
    assert "holds no dataset" in refusal(tmp_path)
    (tmp_path / ".parts").mkdir()
    message = refusal(tmp_path)
    assert "holds an unfinished preparation" in message
    assert "run the same anyres prepare command again" in message


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"format_version": 2}, "has format version 2"),
        ({"format_version": None}, "has format version None"),
        ({"rows": "24"}, "rows is '24'"),
        ({"rows": 23}, "the manifest has 24 rows, and dataset.json says 23"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"variants": ["round"]}, "variants"),
        ({"scaling": {"shift": [0.0], "factor": [0.0]}}, "a factor of 0"),
    ],
)
def test_a_damaged_description_is_refused(folder, change, got):
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(info | change))
    assert got in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"format_version": 1}', "\ud800"])
def test_a_description_that_is_none_is_refused(folder, text):
    (folder / "dataset.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "dataset.json" in refusal(folder)


def test_a_damaged_manifest_is_refused_and_preparing_again_restores_it(folder, original):
    path = folder / "manifest.parquet"
    whole = path.read_bytes()
    again = ["prepare", original.parent / "images", "--out", folder, "--multiple-of-cells", "2", "--device", "cpu"]
    for damage in (path.unlink, lambda: os.truncate(path, len(whole) // 2), lambda: path.write_bytes(b"")):
        damage()
        message = refusal(folder)
        assert "manifest.parquet cannot be read" in message
        assert "run anyres prepare again on the same folder" in message
        assert main([*map(str, again)]) == 0
        assert path.read_bytes() == whole


def test_a_manifest_without_a_column_or_a_row_is_refused(folder):
    table = pq.read_table(folder / "manifest.parquet")
    pq.write_table(table.drop_columns(["shard", "label"]), folder / "manifest.parquet")
    assert "lacks label, shard" in refusal(folder)
    pq.write_table(table.slice(1), folder / "manifest.parquet")
    assert "the manifest has 23 rows, and dataset.json says 24" in refusal(folder)


def test_a_missing_or_damaged_shard_is_refused_before_training(folder):
    path = folder / "shard-00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    assert f"shard {path} cannot be read" in refusal(folder)
    path.unlink()
    assert f"shard {path} is missing" in refusal(folder)
    shutil.copy(folder / "shard-00004.safetensors", path)
    assert "cells, and the manifest wants" in refusal(folder)


def test_a_manifest_that_points_elsewhere_is_refused(folder):
    table = pq.read_table(folder / "manifest.parquet")
    offsets = table.column("cell_offset").to_numpy().copy()
    offsets[np.flatnonzero(table.column("shard").to_numpy() == 1)[-1]] += 1
    index = table.column_names.index("cell_offset")
    pq.write_table(table.set_column(index, "cell_offset", pa.array(offsets)), folder / "manifest.parquet")
    assert "shard-00001.safetensors has" in refusal(folder)


@pytest.mark.parametrize("command", ["train", "inspect"])
def test_commands_say_so_without_a_traceback(folder, tmp_path, capsys, command):
    os.truncate(folder / "shard-00000.safetensors", 64)
    arguments = {
        "train": ["train", "tutorial", "--data", str(folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    }
    assert main(arguments.get(command, ["inspect", str(folder)])) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"anyres {command}: shard {folder / 'shard-00000.safetensors'} cannot be read")
    assert "\n  wanted: " in message
    assert "\n  to fix: " in message
