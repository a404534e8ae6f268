"""What goes wrong while preparing: bad images are listed, bad settings and disks refused, and what was done is kept."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.cli import main
from anyres.grid import Size
from anyres.latents import writer
from anyres.latents.format import LatentDataset
from anyres.latents.patch_pca import PatchPCA
from tests.made import patch_pca, picture, picture_folder
from tests.prepare.killing import contents, no_fsync, run


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.fixture
def images(tmp_path):
    return picture_folder(tmp_path / "images", each=8)


def test_bad_images_are_listed_counted_and_skipped(images, tmp_path, capsys, monkeypatch, recwarn):
    good = (images / "cat" / "00000.png").read_bytes()
    bad = {
        "cat/empty.png": b"",
        "cat/half, or less.png": good[: len(good) // 2],
        "cat/héllo\n.png": b"hello",
        "dog/jpeg.jpg": b"\xff\xd8\xff\xe0",
    }
    for name, data in bad.items():
        (images / name).write_bytes(data)
    picture(Size(60, 60), 1).save(images / "dog" / "warned.png")
    picture(Size(99, 99), 1).save(images / "dog" / "bomb.png")
    (images / "dog" / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(images / "dog" / "pipe.png")
    (images / "notes.txt").touch()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 48)
    assert main(["prepare", str(images), "--out", str(tmp_path / "data"), "--device", "cpu"]) == 0
    report = capsys.readouterr()
    assert report.err == ""
    assert not recwarn.list, "Pillow's warnings are not for the user"
    assert "16 images, 16 rows" in report.out
    assert f"rejected     8 files, listed in {tmp_path / 'data' / 'rejected.csv'}" in report.out
    assert "ignored      1 files" in report.out
    with (tmp_path / "data" / "rejected.csv").open(newline="") as file:
        reasons = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == sorted([*bad, "dog/warned.png", "dog/bomb.png", "dog/dangling.png", "dog/pipe.png"])
    assert reasons["cat/empty.png"] == "the file is empty"
    assert reasons["cat/half, or less.png"].startswith("corrupt or truncated: ")
    assert "not an image" in reasons["cat/héllo\n.png"]
    assert reasons["dog/warned.png"].startswith("too large to decode safely: 60x60 px")
    assert reasons["dog/bomb.png"].startswith("too large to decode safely: ")
    assert "No such file" in reasons["dog/dangling.png"]
    assert LatentDataset.open(tmp_path / "data").info.rejected == 8


def test_the_report_ends_with_the_quality_in_db(images, tmp_path, capsys):
    assert main(["prepare", str(images), "--out", str(tmp_path / "data"), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    info = LatentDataset.open(tmp_path / "data").info
    assert f"quality      {info.reconstruction_psnr:.2f} dB between images and their decoded latents" in text
    assert 20 < info.reconstruction_psnr < 60
    assert "rejected" not in text
    assert "ignored" not in text


@pytest.mark.parametrize("autoencoder", ["patch-pca", "given"])
def test_no_usable_image_is_an_error_and_the_reasons_are_told(tmp_path, refused, autoencoder):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    if autoencoder == "given":
        patch_pca().save(tmp_path / "given")
        autoencoder = str(tmp_path / "given")
    message = refused(tmp_path / "images", "--out", tmp_path / "data", "--autoencoder", autoencoder)
    assert "none of 2 images" in message or "none of the 2 images could be used: the file is empty" in message
    picture(Size(128, 128), 0).save(tmp_path / "images" / "c.png")
    assert run(tmp_path / "images", tmp_path / "data", autoencoder=autoencoder).added == 1


@pytest.mark.parametrize("flipped", [False, True])
def test_an_image_whose_latent_is_not_finite_is_rejected_with_all_its_variants(images, tmp_path, monkeypatch, flipped):
    encode, spoilt = PatchPCA.encode, np.asarray(Image.open(images / "cat" / "00001.png"))[None] / 127.5 - 1

    def spoil(self, batch):
        latents = encode(self, batch)
        for i, image in enumerate(batch.flip(-1) if flipped else batch):
            if image.shape == (3, *spoilt.shape[1:3]) and np.allclose(image.permute(1, 2, 0), spoilt[0], atol=1e-5):
                latents[i, 0, 0, 0] = 1e6  # beyond float16
        return latents

    monkeypatch.setattr(PatchPCA, "encode", spoil)
    report = run(images, tmp_path / "data", variants=("native", "square-256"), upscale=True)
    data = LatentDataset.open(tmp_path / "data")
    assert (report.info.images, report.info.rows, report.info.rejected) == (15, 30, 1)
    assert "cat/00001.png" not in data.sources
    assert "cat/00001.png,its latent is not finite in float16" in (tmp_path / "data" / "rejected.csv").read_text()
    assert all(data.read_raw(row, flipped=flip).isfinite().all() for row in range(len(data)) for flip in (False, True))


FULL = Path("/dev/full")
FILES = (
    ".parts/settings.json",
    "shard-00000.safetensors",
    "shard-00001.safetensors",
    ".parts/part-00001.parquet",
    "rejected.csv",
    "manifest.parquet",
    "dataset.json",
)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_stops_the_run_and_the_next_one_finishes_it(images, tmp_path, refused, monkeypatch, name):
    (images / "cat" / "bad.png").write_bytes(b"")
    run(images, tmp_path / "undisturbed")
    out = tmp_path / "data"
    path = out / name
    path.parent.mkdir(parents=True)
    (out / ".parts").mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "remove_leftovers", lambda folder: None)
        path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to(FULL)  # where the file is prepared
        message = refused(images, "--out", out, "--images-per-shard", 5)
    assert f"the disk is full: cannot write {path}" in message
    assert "what was finished is kept" in message
    assert not path.exists()
    finished = {shard: shard.stat().st_mtime_ns for shard in out.glob("shard-*")}
    run(images, out)
    assert contents(out) == contents(tmp_path / "undisturbed")
    redone = {shard.name for shard, when in finished.items() if shard.stat().st_mtime_ns != when}
    assert redone <= {"shard-00001.safetensors"}, "what was finished is not done again"


def test_too_little_memory_says_what_to_lower(images, tmp_path, refused, monkeypatch):
    def burst(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PatchPCA, "encode", burst)
    assert "lower --batch-px, or --max-side" in refused(images, "--out", tmp_path / "data")


def test_outputs_that_cannot_be_written(images, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "data"):
        assert f"cannot write {out}" in refused(images, "--out", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    assert "was not begun by anyres prepare: it holds thesis.tex" in refused(images, "--out", tmp_path / "other")
    assert contents(tmp_path / "other") == {"thesis.tex": b"mine"}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "got"),
    [
        (["--workers", 0], "workers = 0"),
        (["--batch-px", 0], "batch_px = 0"),
        (["--max-side", -1], "max_side = -1"),
        (["--images-per-shard", 0], "images_per_shard = 0"),
        (["--variants", "native", "native"], "variants"),
        (["--variants", "square-256", "--multiple-of-cells", 5, "--upscale"], "the variant square-256"),
        (["--autoencoder", "no/such/folder"], "no/such/folder"),
        (["--autoencoder", "."], "is not an autoencoder's folder"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_options_that_cannot_be_used(images, tmp_path, refused, monkeypatch, options, got):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    picture(Size(200, 200), 0).save(images / "cat" / "large.png")
    assert got in refused(images, "--out", tmp_path / "data", *options)
    assert not (tmp_path / "data").exists(), "and nothing was begun"
    assert run(images, tmp_path / "data").added == 17, "and may be put right"


def test_missing_and_empty_folders(tmp_path, refused):
    assert "there is no folder" in refused(tmp_path / "none", "--out", tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    assert "holds no image" in refused(tmp_path / "empty", "--out", tmp_path / "data")
    assert not list((tmp_path / "data").iterdir()), "a folder that was there stays, as it was"


def test_a_refused_call_leaves_what_an_earlier_one_has_made(images, tmp_path, refused):
    run(images, tmp_path / "data")
    before = contents(tmp_path / "data")
    assert "no/such" in refused(images, "--out", tmp_path / "data", "--autoencoder", "no/such/folder")
    assert contents(tmp_path / "data") == before
