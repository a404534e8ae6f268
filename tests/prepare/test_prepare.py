"""From a folder of images to a dataset: what is stored is what was in the pictures."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anyres.errors import DataError
from anyres.grid import Size, native_size
from anyres.latents.format import MANIFEST, LatentDataset
from anyres.latents.loading import load_autoencoder
from anyres.latents.patch_pca import PatchPCA
from anyres.prepare import encoder
from anyres.prepare.encode import prepare
from anyres.prepare.images import centre_crop, resize
from anyres.prepare.options import PrepareOptions
from tests.made import patch_pca, picture, picture_folder
from tests.prepare.killing import contents

PX = 8  # a cell of PatchPCA


def run(images, out, **options):
    return prepare(PrepareOptions(images=images, out=out, device="cpu", **{"workers": 2, **options}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """24 images of two classes, in three shards."""
    root = tmp_path_factory.mktemp("prepared")
    images = picture_folder(root / "images")
    report = run(images, root / "data", images_per_shard=10)
    return images, LatentDataset.open(root / "data"), report


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    patch_pca().save(folder)
    return folder


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def as_map(data, row, *, flipped=False):
    """A stored latent, (1, channels, height, width), by what the format says: row-major cells."""
    height, width = data.cells[row].tolist()
    return data.read_raw(row, flipped=flipped).float().T.reshape(1, -1, height, width)


def test_stored_latents_decode_to_the_picture_and_the_flipped_to_its_mirror_image(prepared):
    images, data, _ = prepared
    ours = data.autoencoder()
    for row, source in enumerate(data.sources):
        image = Image.open(images / source)
        size = native_size(Size(image.height, image.width), PX)
        plain = tensor(resize(image, size))
        assert data.image_px[row].tolist() == [size.height, size.width]
        for flipped in (False, True):
            decoded = ours.decode(as_map(data, row, flipped=flipped))[0]
            right, wrong = (plain.flip(-1), plain) if flipped else (plain, plain.flip(-1))
            assert (decoded - right).abs().mean() < 0.045, source
            assert (decoded - wrong).abs().mean() > 0.09, "they can be told apart"


def test_the_scaled_latents_are_the_stored_ones_scaled(prepared):
    _, data, _ = prepared
    for flipped in (False, True):
        scaled = data.scaling.to_model(data.read_raw(0, flipped=flipped).float())
        torch.testing.assert_close(data.read(0, flipped=flipped), scaled)


def test_the_manifest_says_what_is_where(prepared):
    images, data, _ = prepared
    table = pq.read_table(data.path / "manifest.parquet")
    assert {field.name: str(field.type) for field in table.schema} == MANIFEST
    rows = table.to_pylist()
    assert [row["source"] for row in rows] == sorted(row["source"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows) == 24
    for row in rows:
        path = images / row["source"]
        with Image.open(path) as image:
            assert (row["original_width"], row["original_height"]) == image.size
        assert row["content_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert data.info.labels[row["label"]] == path.parent.name
        assert row["id"] == row["source"] + "#native"
        assert (row["image_height"], row["image_width"]) == (PX * row["cells_height"], PX * row["cells_width"])


def test_images_are_slices_of_shards_one_after_another_and_nothing_is_left(prepared):
    _, data, _ = prepared
    rows = pq.read_table(data.path / "manifest.parquet").to_pylist()
    assert Counter(row["shard"] for row in rows) == {0: 10, 1: 10, 2: 4}
    for number in range(3):
        offset = 0
        stored = load_file(data.path / f"shard-{number:05d}.safetensors")
        assert {name: value.dtype for name, value in stored.items()} == dict.fromkeys(stored, torch.float16)
        for index, row in enumerate(rows):
            if row["shard"] == number:
                assert row["cell_offset"] == offset
                end = offset + row["cells_height"] * row["cells_width"]
                assert torch.equal(stored["latents"][offset:end], data.read_raw(index))
                assert torch.equal(stored["latents_flipped"][offset:end], data.read_raw(index, flipped=True))
                offset = end
        assert len(stored["latents"]) == len(stored["latents_flipped"]) == offset


@pytest.mark.float64
def test_the_sums_of_a_dataset(prepared):
    images, data, report = prepared
    assert data.info == report.info
    assert (data.info.labels, data.info.images, data.info.rows, data.info.rejected) == (("cat", "dog"), 24, 24, 0)
    cells = torch.cat([data.read_raw(row) for row in range(len(data))]).double()
    assert report.cells == len(cells)
    np.testing.assert_allclose(data.info.channel_mean, cells.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(data.info.channel_std, cells.std(0, correction=0), rtol=1e-6)
    ours, psnr = data.autoencoder(), []
    for row, source in enumerate(data.sources):
        image = resize(Image.open(images / source), Size(*data.image_px[row].tolist()))
        decoded = ours.decode(as_map(data, row))[0].clamp(-1, 1)
        psnr.append(10 * np.log10(4 / float((decoded - tensor(image)).square().mean())))
    assert data.info.reconstruction_images == 24
    assert data.info.reconstruction_psnr == pytest.approx(np.mean(psnr), abs=1e-3)


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 7}, {"batch_px": 1}, {"batch_px": 3000}])
def test_files_are_equal_however_many_threads_decode_and_however_many_images_are_encoded_together(
    prepared, tmp_path, options
):
    images, data, _ = prepared
    run(images, tmp_path / "data", images_per_shard=10, **options)
    assert contents(tmp_path / "data") == contents(data.path)


def test_where_a_window_ends_does_not_show(prepared, tmp_path, monkeypatch):
    images, data, _ = prepared
    monkeypatch.setitem(encoder.WINDOW_PX, "cpu", 2000)
    monkeypatch.setattr(encoder, "MEASURED_PER_PART", 24)
    run(images, tmp_path / "data", images_per_shard=10)
    windows, whole = contents(tmp_path / "data"), contents(data.path)
    assert {name: windows[name] for name in windows if name.startswith("shard")} == {
        name: whole[name] for name in whole if name.startswith("shard")
    }


def test_a_shard_ends_when_its_bytes_are_many(prepared, tmp_path, monkeypatch):
    images, data, _ = prepared
    monkeypatch.setattr(encoder, "PART_BYTES", 10_000)
    run(images, tmp_path / "data")
    assert len(list((tmp_path / "data").glob("shard-*"))) > 3
    again = LatentDataset.open(tmp_path / "data")
    assert all(torch.equal(again.read_raw(row), data.read_raw(row)) for row in range(len(data)))


def test_images_of_equal_size_are_encoded_together(prepared, tmp_path, monkeypatch):
    images, _, _ = prepared
    shapes = []
    encode = PatchPCA.encode
    monkeypatch.setattr(PatchPCA, "encode", lambda self, x: shapes.append(tuple(x.shape)) or encode(self, x))
    run(images, tmp_path / "data")
    sizes = Counter()
    for label in ("cat", "dog"):
        for path in (images / label).iterdir():
            with Image.open(path) as image:
                sizes[native_size(Size(image.height, image.width), PX)] += 1
    once = Counter({(2 * number, 3, size.height, size.width): 1 for size, number in sizes.items()})  # and mirrored
    assert Counter(shapes) == once


def test_variants(tmp_path, autoencoder):
    sizes = {"small": Size(64, 300), "middle": Size(300, 280), "large": Size(520, 600)}
    for seed, (name, size) in enumerate(sizes.items()):
        (tmp_path / "images" / "x").mkdir(parents=True, exist_ok=True)
        picture(size, seed).save(tmp_path / "images" / "x" / f"{name}.png")
    variants = ("native", "square-256", "square-512")
    options = {"variants": variants, "autoencoder": str(autoencoder), "max_side": 400, "multiple_of_cells": 4}
    report = run(tmp_path / "images", tmp_path / "data", **options)
    data = LatentDataset.open(tmp_path / "data")
    assert Counter(zip(data.sources, data.variants, strict=True)) == {
        ("x/large.png", "native"): 1,
        ("x/large.png", "square-256"): 1,
        ("x/large.png", "square-512"): 1,
        ("x/middle.png", "native"): 1,
        ("x/middle.png", "square-256"): 1,
        ("x/small.png", "native"): 1,
    }
    assert report.variant_rows == {"native": 3, "square-256": 2, "square-512": 1}
    assert "native 3, square-256 2 (1 images are too small), square-512 1 (2 images are too small)" in str(report)
    assert (data.info.images, data.info.rows, data.info.variants) == (3, 6, variants)
    encoder = load_autoencoder(str(autoencoder))
    for row, (source, variant) in enumerate(zip(data.sources, data.variants, strict=True)):
        original = picture(Size(*data.original_px[row].tolist()), list(sizes).index(source[2:-4]))
        native = native_size(Size(original.height, original.width), 4 * PX, 400)
        square = None if variant == "native" else int(variant.removeprefix("square-"))
        shown = resize(original, native) if square is None else centre_crop(original, square)
        assert data.image_px[row].tolist() == [shown.height, shown.width]
        torch.testing.assert_close(
            as_map(data, row), encoder.encode(tensor(shown)[None]).half().float(), rtol=1e-3, atol=1e-3
        )
    assert (data.cells % 4 == 0).all()
    assert data.lengths(4).sum() * 16 == report.cells
    with pytest.raises(DataError, match="patch size 3 does not divide"):
        data.lengths(3)


def test_small_images_are_enlarged_on_request_only(tmp_path, autoencoder):
    images = picture_folder(tmp_path / "images", each=1)
    options = {"variants": ("square-256",), "autoencoder": str(autoencoder)}
    with pytest.raises(DataError, match="none of the 2 images could be used: it is 40x24 px, too small for square-256"):
        run(images, tmp_path / "small", **options)
    report = run(images, tmp_path / "large", upscale=True, **options)
    data = LatentDataset.open(tmp_path / "large")
    assert report.variant_rows == {"square-256": 2}
    assert data.image_px.tolist() == [[256, 256]] * 2
    assert data.original_px.tolist() == [[24, 40]] * 2


@pytest.mark.parametrize("size", [Size(1, 1), Size(3, 200), Size(200, 3)])
def test_an_image_smaller_than_a_cell_is_one_cell(tmp_path, autoencoder, size):
    (tmp_path / "images").mkdir()
    picture(size, 0).save(tmp_path / "images" / "one.png")
    run(tmp_path / "images", tmp_path / "data", autoencoder=str(autoencoder))
    data = LatentDataset.open(tmp_path / "data")
    assert data.cells.tolist() == [[max(1, size.height // PX), max(1, size.width // PX)]]
    assert data.info.labels == ("unlabelled",)
