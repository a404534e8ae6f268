"""Killed at any instant and run again: nothing is lost, doubled or left behind."""

import os
import shutil
from pathlib import Path

import pytest

from anyres.errors import DataError
from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.latents.writer import DatasetWriter
from anyres.prepare.found import FileImage
from tests.made import patch_pca, picture, picture_folder
from tests.prepare.killing import contents, kill, no_fsync, run


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seven images and two that are none."""
    root = picture_folder(tmp_path_factory.mktemp("restart") / "images", ("cat", "dog"), each=3)
    picture(Size(96, 120), 77).save(root / "dog" / "last.png")
    (root / "cat" / "00001x.png").write_bytes(b"")
    (root / "dog" / "zz.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def undisturbed(images):
    run(images, images.parent / "undisturbed")
    return contents(images.parent / "undisturbed")


@pytest.mark.slow
def test_killed_before_each_change_of_the_disk(images, undisturbed, tmp_path):
    instant = 0
    while True:
        instant += 1
        out = tmp_path / f"{instant}"
        if not kill(images, out, instant):
            break
        if (out / "dataset.json").exists():
            assert len(LatentDataset.open(out)) == 7, "it is written last"
        run(images, out)
        assert contents(out) == undisturbed, f"killed before change {instant}"
        shutil.rmtree(out)
    assert instant > 30


def grown(images, root):
    """The images and some more: in a class, in two new classes, one of which sorts before the others."""
    more = root / "more"
    shutil.copytree(images, more)  # with the times of change, by which the rejected are known
    for seed, name in enumerate(("cat/new.png", "ant/one.png", "bee/one.png", "bee/two.png")):
        (more / name).parent.mkdir(exist_ok=True)
        picture(Size(24, 32), 500 + seed).save(more / name)
    return more


def test_killed_while_images_are_added(images, tmp_path):
    more = grown(images, tmp_path)
    run(images, tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "all")
    run(more, tmp_path / "all")
    wanted = contents(tmp_path / "all")
    instant = 0
    while True:
        instant += 1
        out = tmp_path / f"{instant}"
        shutil.copytree(tmp_path / "first", out)
        if not kill(more, out, instant):
            break
        try:
            assert len(LatentDataset.open(out)) in (7, 11), "it is the old one, or the new"
        except DataError as error:
            assert "run anyres prepare again on the same folder" in str(error)  # noqa: PT017
        run(more, out)
        assert contents(out) == wanted, f"killed before change {instant}"
        shutil.rmtree(out)
    assert instant > 20


def test_killed_again_and_again(images, undisturbed, tmp_path):
    kills = 0
    while kill(images, tmp_path / "data", 12 + kills):  # each time a little later, or it would get nowhere
        kills += 1
    assert kills > 4
    assert contents(tmp_path / "data") == undisturbed


def test_a_second_run_changes_nothing(images, undisturbed, tmp_path):
    out = tmp_path / "data"
    first = run(images, out)
    shards = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".safetensors", ".parquet")}
    again = run(images, out, images_per_shard=1, workers=3, batch_px=1)  # none of these matters to what is done
    assert (first.added, again.added, again.info) == (7, 0, first.info)
    assert contents(out) == undisturbed
    unchanged = {path for path, when in shards.items() if path.stat().st_mtime_ns == when}
    assert set(shards) - unchanged == {out / "manifest.parquet"}


def test_added_images_follow_and_labels_keep_their_numbers(images, tmp_path):
    out = tmp_path / "data"
    run(images, out)
    old = LatentDataset.open(out)
    report = run(grown(images, tmp_path), out)
    new = LatentDataset.open(out)
    assert (report.added, report.info.images, report.info.rejected) == (4, 11, 2)
    assert (old.info.labels, new.info.labels) == (("cat", "dog"), ("cat", "dog", "ant", "bee"))
    assert new.sources == (*old.sources, "ant/one.png", "bee/one.png", "bee/two.png", "cat/new.png")
    assert [new.info.labels[label] for label in new.labels] == [source.split("/")[0] for source in new.sources]
    assert new.info.autoencoder == old.info.autoencoder
    for row in range(len(old)):
        for flipped in (False, True):
            assert new.read_raw(row, flipped=flipped).equal(old.read_raw(row, flipped=flipped))


def test_a_rejected_file_is_tried_again_when_it_has_changed(images, tmp_path, monkeypatch):
    mine, out = tmp_path / "images", tmp_path / "data"
    shutil.copytree(images, mine)
    assert run(mine, out).info.rejected == 2
    assert (out / "rejected.csv").read_text().splitlines()[1].startswith("cat/00001x.png,")
    tried = []
    read = FileImage.read
    monkeypatch.setattr(FileImage, "read", lambda image: tried.append(Path(image.source).name) or read(image))
    run(mine, out)
    assert tried == []
    picture(Size(24, 24), 9).save(mine / "cat" / "00001x.png")
    assert (run(mine, out).info.rejected, tried) == (1, ["00001x.png"])
    picture(Size(24, 24), 10).save(mine / "dog" / "zz.png")
    report = run(mine, out)
    assert (report.info.images, report.info.rejected) == (9, 0)
    assert not (out / "rejected.csv").exists()
    assert sorted(LatentDataset.open(out).sources) == sorted(
        p.relative_to(mine).as_posix() for p in mine.rglob("*.png")
    )


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--max-side", "64"], "max_side: 2048 → 64"),
        (["--multiple-of-cells", "2"], "multiple_of_cells: 1 → 2"),
        (["--variants", "native", "square-256"], "variants: ['native'] → ['native', 'square-256']"),
        (["--upscale", "--max-side", "64"], "max_side: 2048 → 64; upscale: False → True"),
    ],
)
def test_other_settings_are_refused_and_shown(images, undisturbed, refused, options, difference):
    out = images.parent / "undisturbed"
    message = refused(images, "--out", out, "--workers", 1, *options)
    assert f"{out} was begun with other settings: {difference}\n" in message
    assert contents(out) == undisturbed


def test_another_autoencoder_is_refused_and_the_same_one_from_elsewhere_is_not(images, undisturbed, tmp_path, refused):
    out = images.parent / "undisturbed"
    patch_pca().save(tmp_path / "other")
    message = refused(images, "--out", out, "--workers", 1, "--autoencoder", str(tmp_path / "other"))
    assert "autoencoder: PatchPCA " in message
    shutil.copytree(out / "autoencoder", tmp_path / "same")
    assert run(images, out, autoencoder=str(tmp_path / "same")).added == 0
    assert contents(out) == undisturbed


def test_what_was_refused_before_it_began_may_be_put_right(images, tmp_path, refused):
    out = tmp_path / "data"
    squares = ["--variants", "square-256", "--upscale"]
    message = refused(images, "--out", out, "--workers", 1, *squares, "--multiple-of-cells", "3")
    assert "a square whose side is a multiple of 24 px" in message
    assert "change --multiple-of-cells" in message
    patch_pca(channels=4).save(tmp_path / "mine")
    report = run(images, out, variants=("square-256",), upscale=True, autoencoder=str(tmp_path / "mine"))
    assert report.info.autoencoder.same_as(LatentDataset.open(out).autoencoder().identity)


def test_two_at_once_are_refused(images, tmp_path, refused):
    out = tmp_path / "data"
    with DatasetWriter(out):
        assert f"another process is preparing {out}" in refused(images, "--out", out, "--workers", 1)
    assert run(images, out).added == 7
