"""The published latents: imported they are what preparing the images gives; packs; restarts; damage."""

import csv
import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.cli import main
from anyres.errors import ConfigError, DataError
from anyres.latents.fixed_packs import read_fixed_packs
from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from anyres.prepare.released import import_released
from tests.prepare.killing import contents, kill_work, no_fsync
from tests.prepare.made_released import NUMBERS, released

PACKS = [[0, 5], [7], [2, 1, 6, 3], [4]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", no_fsync)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return released(tmp_path_factory.mktemp("released"))


@pytest.fixture
def mine(made, tmp_path):
    """A copy whose files a test may change."""
    shutil.copytree(made.root, tmp_path / "mine")
    return type(made)(root=tmp_path / "mine", prepared=made.prepared, lines=made.lines)


def write_packs(folder, packs):
    (folder / "packs.json").write_text(json.dumps(packs))
    return folder / "packs.json"


def test_it_is_what_preparing_the_images_gives(made, tmp_path):
    report = import_released(made.options(tmp_path / "data"))
    data, wanted = LatentDataset.open(tmp_path / "data"), made.prepared
    assert (report.added, report.variant_rows, report.info.images) == (8, {"native": 4, "square-256": 4}, 4)
    assert data.ids == tuple(f"{line['image_file']}#{NAMED[line['type']]}" for line in made.lines)
    assert (data.info.scaling, data.info.autoencoder) == (wanted.info.scaling, wanted.info.autoencoder)
    assert data.info.scaling.factor == (0.41407,) * 4
    rows = [wanted.ids.index(name) for name in data.ids]
    for mine, theirs in enumerate(rows):
        for flipped in (False, True):
            ours, whole = data.read(mine, flipped=flipped), wanted.read(theirs, flipped=flipped)
            torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-5)
        assert not torch.equal(data.read(mine), data.read(mine, flipped=True))
        assert (data.cells[mine] == wanted.cells[theirs]).all()
        assert (data.image_px[mine] == wanted.image_px[theirs]).all()
        assert (data.original_px[mine] == wanted.original_px[theirs]).all()
        assert data.labels[mine] == NUMBERS[data.sources[mine].split("/")[0]]
    np.testing.assert_allclose(data.info.channel_std, wanted.info.channel_std, rtol=1e-2)
    assert data.info.labels == tuple(map(str, range(12))), "a class's number is its name and its place"
    assert (data.info.quality, data.info.reconstruction_images) == ("not measured", 0)


NAMED = {"native-resolution": "native", "fixed-256x256": "square-256"}


def test_variants_of_an_image_are_held_out_together(made, tmp_path):
    import_released(made.options(tmp_path / "data"))
    data = LatentDataset.open(tmp_path / "data")
    held = data.held_out(0.5)
    assert 0 < held.sum() < 8
    by_image = {source: set(held[np.array(data.sources) == source]) for source in data.sources}
    assert all(len(sides) == 1 for sides in by_image.values())


@pytest.mark.slow
def test_killed_before_each_change_of_the_disk(mine, tmp_path):
    mine.latent(4).write_bytes(b"damage")
    options = mine.options(tmp_path / "undisturbed", packs=write_packs(tmp_path, [[0, 5], [7, 2]]))
    import_released(options)
    instant = 0
    while True:
        instant += 1
        out = tmp_path / f"{instant}"
        again = mine.options(out, packs=options.packs)
        if not kill_work(partial(import_released, again), out, instant):
            break
        import_released(again)
        assert contents(out) == contents(tmp_path / "undisturbed"), f"killed before change {instant}"
        shutil.rmtree(out)
    assert instant > 20


def test_packs_name_the_same_latents_also_where_rows_lie_in_another_order(mine, tmp_path, capsys):
    def named():
        data = LatentDataset.open(tmp_path / "data")
        stored = read_fixed_packs(data.path, len(data))
        rows = np.split(stored.rows, stored.offsets[1:-1])
        return [[data.ids[row] for row in pack] for pack in rows]

    wanted = [[f"{mine.lines[n]['image_file']}#{NAMED[mine.lines[n]['type']]}" for n in pack] for pack in PACKS]
    shutil.move(mine.latent(1), tmp_path / "away")
    options = mine.options(tmp_path / "data", packs=write_packs(tmp_path, PACKS))
    with pytest.raises(DataError, match="names 1 latents that were rejected"):
        import_released(options)
    assert len(LatentDataset.open(tmp_path / "data")) == 7, "the rest is there"
    shutil.move(tmp_path / "away", mine.latent(1))
    report = import_released(options)
    assert (report.added, report.packs, report.info.rejected) == (1, 4, 0)
    assert not (tmp_path / "data" / "rejected.csv").exists()
    assert LatentDataset.open(tmp_path / "data").ids[-1] == wanted[2][1], "it came last"
    assert named() == wanted
    write_packs(tmp_path, PACKS[:2])
    import_released(options)
    assert named() == wanted[:2], "and may be replaced"


def test_damaged_latents_are_listed_and_tried_again_when_they_have_changed(mine, tmp_path):
    good = load_file(mine.latent(0))
    damage = {
        0: {"latent": good["latent"][:1], "label": good["label"]},
        1: {"latent": good["latent"], "label": torch.tensor(12.0)},
        2: {"latent": good["latent"] * torch.nan, "label": good["label"]},
        3: {"latent": load_file(mine.latent(5))["latent"], "label": good["label"]},
        4: {"label": good["label"]},
        5: {**load_file(mine.latent(5)), "label": torch.tensor(0.5)},
    }
    whole = [mine.latent(line).read_bytes() for line in range(8)]
    damage[2]["latent"] = load_file(mine.latent(2))["latent"] * torch.nan
    damage[1]["latent"] = load_file(mine.latent(1))["latent"]
    for line, tensors in damage.items():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, mine.latent(line))
    mine.latent(6).write_bytes(whole[6][:100])
    report = import_released(mine.options(tmp_path / "data"))
    assert (report.info.rows, report.info.rejected) == (1, 7)
    with (tmp_path / "data" / "rejected.csv").open(newline="") as file:
        reasons = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    texts = (
        "not latent (2, channels, height, width) and label",
        "its label is 12, and there are 12 classes",
        "not finite",
        "and the manifest and the autoencoder say",
        "it holds {'label': ()}",
        "its label is 0.5",
        "corrupt or truncated",
    )
    for number, text in enumerate(texts):
        line = mine.lines[number]
        assert text in reasons[f"{line['image_file']}#{NAMED[line['type']]}"]
    assert import_released(mine.options(tmp_path / "data")).added == 0
    for line in range(7):
        mine.latent(line).write_bytes(whole[line])
    assert import_released(mine.options(tmp_path / "data")).info.rejected == 0


def test_another_scale_of_cells_is_rejected(mine, tmp_path):
    text = mine.manifest.read_text()
    mine.manifest.write_text(text.replace('"image_h": 40', '"image_h": 80'))
    report = import_released(mine.options(tmp_path / "data"))
    assert report.info.rejected == 1
    assert "of an image of 300x80 px" in (tmp_path / "data" / "rejected.csv").read_text()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda lines: [*lines, lines[0]], r"lines 1 and 9 of .* are of the same image and type"),
        (lambda lines: [], r"is empty"),
        (lambda lines: [*lines[:2], "no json"], r"line 3 of .* is 'no json'"),
        (lambda lines: [*lines[:2], json.dumps({"image_file": "a"})], r"line 3 of .* is '\{"),
        (lambda lines: [lines[0].replace('"latent_h": ', '"latent_h": -')], r"line 1 of .*latent_h"),
        (lambda lines: [lines[0].replace("native-", "naive-")], r"line 1 of .* is of type 'naive-resolution'"),
    ],
)
def test_manifests_that_cannot_be_used(mine, tmp_path, change, got):
    lines = mine.manifest.read_text().splitlines()
    mine.manifest.write_text("".join(f"{line}\n" for line in change(lines)))
    with pytest.raises(DataError, match=got):
        import_released(mine.options(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("packs", "got"),
    [
        ([], "is no list of packs"),
        ([[]], "is no list of packs"),
        ([[0], 1], "is no list of packs"),
        ([[0], [True]], "is no list of packs"),
        ([[0], [8]], "names line 8, and the manifest has 8"),
        ([[0], [-1]], "names line -1"),
        ([[0, 3], [3]], "names line 3 2 times"),
    ],
)
def test_packs_that_cannot_be_used_are_refused_before_anything_is_read(made, tmp_path, packs, got):
    with pytest.raises(DataError, match=got):
        import_released(made.options(tmp_path / "data", packs=write_packs(tmp_path, packs)))
    assert not (tmp_path / "data").exists()


def test_folders_of_types(made, tmp_path):
    with pytest.raises(ConfigError, match="4 latents of type fixed-256x256, and their folder was not given"):
        import_released(made.options(tmp_path / "data", square_256=None))
    with pytest.raises(DataError, match="there is no folder"):
        import_released(made.options(tmp_path / "data", native=tmp_path / "none"))


def test_it_is_not_mixed_with_a_preparation(made, tmp_path):
    import_released(made.options(tmp_path / "data"))
    options = {"out": tmp_path / "data", "autoencoder": str(made.root / "autoencoder"), "device": "cpu"}
    with pytest.raises(DataError, match="from: released latents → images"):
        prepare(PrepareOptions(images=made.root / "images", **options))
    with pytest.raises(DataError, match="num_classes: 12 → 13"):
        import_released(made.options(tmp_path / "data", num_classes=13))
    prepare(PrepareOptions(images=made.root / "images", **{**options, "out": tmp_path / "other"}))
    with pytest.raises(DataError, match="from: images → released latents"):
        import_released(made.options(tmp_path / "other"))


def test_the_command(made, tmp_path, capsys):
    folders = ["--native", made.root / "native-resolution", "--square-256", made.root / "fixed-256x256"]
    packs = write_packs(tmp_path, PACKS)
    given = [made.manifest, *folders, "--packs", packs, "--num-classes", 12, "--out", tmp_path / "data"]
    assert main(["import-released", *map(str, given), "--autoencoder", str(made.root / "autoencoder")]) == 0
    text = capsys.readouterr().out
    assert "4 images, 8 rows, 12 labels" in text
    assert "packs        4; to train in them: --packing.algorithm fixed" in text
    assert "quality" not in text
    assert main(["inspect", str(tmp_path / "data")]) == 0
    text = capsys.readouterr().out
    assert "not measured" in text
    assert "fixed" in text
    assert main(["import-released", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    message = capsys.readouterr().err
    assert "none cannot be read: " in message
    assert "Traceback" not in message
