"""Preparing with the autoencoders of diffusers, small and untrained."""

import numpy as np
import pytest
import torch

from anyres.cli import main
from anyres.grid import Size, native_size
from anyres.latents.format import LatentDataset
from anyres.latents.loading import load_autoencoder
from anyres.prepare.images import resize
from tests.latents.test_autoencoders import tiny_dc, tiny_kl
from tests.made import SIZES, picture


@pytest.mark.parametrize("make", [tiny_dc, tiny_kl])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_latents_are_the_autoencoders_own(tmp_path, capsys, make, dtype):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "vae")
    (tmp_path / "images").mkdir()
    for seed, size in enumerate(SIZES):
        picture(size, seed).save(tmp_path / "images" / f"{seed}.png")
    options = ["--autoencoder", tmp_path / "vae", "--dtype", dtype, "--multiple-of-cells", "2", "--device", "cpu"]
    assert main(["prepare", *map(str, [tmp_path / "images", "--out", tmp_path / "data", *options])]) == 0
    ours, data = load_autoencoder(str(tmp_path / "vae")), LatentDataset.open(tmp_path / "data")
    identity = ours.identity
    assert f"{identity.kind} {tmp_path / 'vae'} ({identity.fingerprint})" in capsys.readouterr().out
    assert (data.info.autoencoder, data.info.scaling) == (identity, ours.scaling)
    assert data.autoencoder().identity == identity
    assert not (tmp_path / "data" / "autoencoder").exists(), "it is named and not copied"
    differences = []
    for row, size in enumerate(SIZES):
        px = native_size(size, 2 * identity.px_per_cell)
        image = torch.from_numpy(np.array(resize(picture(size, row), px))).permute(2, 0, 1)[None] / 127.5 - 1
        assert data.image_px[row].tolist() == [px.height, px.width]
        assert data.cells[row].tolist() == [px.height // identity.px_per_cell, px.width // identity.px_per_cell]
        for flipped in (False, True):
            wanted = ours.encode(image.flip(-1) if flipped else image)[0].flatten(1).T
            differences.append((data.read_raw(row, flipped=flipped).float() - wanted).abs().max() / wanted.abs().max())
    assert max(differences) < (2e-3 if dtype == "float32" else 5e-2)
    assert (max(differences) > 2e-3) == (dtype == "bfloat16"), "it computed in what was asked for"


def test_sides_follow_the_autoencoders_cells(tmp_path):
    make = tiny_dc()
    make.save_pretrained(tmp_path / "vae")
    (tmp_path / "images").mkdir()
    picture(Size(45, 87), 0).save(tmp_path / "images" / "one.png")
    for multiple, cells in ((1, [11, 21]), (4, [8, 20]), (8, [8, 16])):
        out = tmp_path / f"data-{multiple}"
        options = ["--autoencoder", tmp_path / "vae", "--multiple-of-cells", multiple, "--device", "cpu"]
        assert main(["prepare", *map(str, [tmp_path / "images", "--out", out, *options])]) == 0
        assert LatentDataset.open(out).cells.tolist() == [cells]


def test_another_dtype_is_refused(tmp_path, capsys):
    tiny_dc().save_pretrained(tmp_path / "vae")
    (tmp_path / "images").mkdir()
    picture(Size(24, 40), 0).save(tmp_path / "images" / "one.png")
    options = [tmp_path / "images", "--out", tmp_path / "data", "--autoencoder", tmp_path / "vae", "--device", "cpu"]
    assert main(["prepare", *map(str, options)]) == 0
    assert main(["prepare", *map(str, options), "--dtype", "bfloat16"]) == 2
    assert "was begun with other settings: dtype: float32 → bfloat16" in capsys.readouterr().err
    assert main(["prepare", *map(str, options), "--dtype", "float32"]) == 0, "what auto was on a CPU"
