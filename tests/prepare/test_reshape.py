"""Versions of images in other shapes and sizes: never squeezed, never enlarged, always the same, never measured."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anyres.latents.format import LatentDataset
from anyres.packing.plan import PackingConfig
from anyres.prepare import reshape
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from anyres.train.config import HeldOutConfig, TrainConfig
from anyres.train.loop import loaders
from tests.made import patch_pca, picture_folder
from tests.model.helpers import small_config
from tests.prepare.killing import contents, kill, no_fsync, run

INK = (200, 30, 90)
SIDES = st.integers(8, 120)


def numbered(width, height):
    """An image whose every px differs from all others, so that its place can be read from it."""
    places = np.arange(width * height).reshape(height, width)
    return Image.fromarray(np.stack([places % 256, places // 256, np.full_like(places, 7)], axis=2).astype(np.uint8))


def cut_out(width, height, ground=(255, 255, 255)):
    """A cross that reaches the middle of each side, on a plain ground."""
    image = Image.new("RGB", (width, height), ground)
    image.paste(INK, (width // 2 - 1, 0, width // 2 + 1, height))
    image.paste(INK, (0, height // 2 - 1, width, height // 2 + 1))
    return image


@given(width=SIDES, height=SIDES, number=st.integers(1, 50))
def test_a_crop_is_a_part_of_the_image_as_it_is(width, height, number):
    image = numbered(width, height)
    part = np.asarray(reshape.crop(image, reshape.choices("some image", number))).astype(int)
    first = part[0, 0, 0] + 256 * part[0, 0, 1]
    top, left = divmod(first, width)
    inside = np.asarray(image)[top : top + part.shape[0], left : left + part.shape[1]]
    np.testing.assert_array_equal(part, inside)
    # one side stays whole, the other is rounded to px
    assert part.shape[1] == width or part.shape[0] == height
    assert part.shape[0] * part.shape[1] >= reshape.KEPT * width * height - max(width, height) / 2


@given(width=SIDES, height=SIDES, number=st.integers(1, 50), red=st.integers(0, 150))
def test_a_canvas_holds_the_whole_image_on_the_ground_of_its_border(width, height, number, red):
    ground = (red, 250, 255)
    image = cut_out(width, height, ground)
    made = reshape.canvas(image, reshape.choices("some image", number))
    assert made is not None
    pixels = np.asarray(made)
    rows, columns = (np.flatnonzero((pixels == INK).all(axis=2).any(axis=axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert made.crop(box).tobytes() == image.tobytes(), "the image, unchanged"
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert (pixels[outside] == ground).all()


def test_shapes_reach_as_far_as_they_should_and_no_further():
    image, photograph = cut_out(200, 200), numbered(200, 200)
    draws = [reshape.choices("some image", number) for number in range(300)]
    canvases = [reshape.canvas(image, rng) for rng in draws]
    ratios = np.array([made.width / made.height for made in canvases if made])
    assert ratios.min() == pytest.approx(1 / reshape.STEEPEST, rel=0.05)
    assert ratios.max() == pytest.approx(reshape.STEEPEST, rel=0.05)
    assert 0.4 < (ratios > 1).mean() < 0.6, "as many tall as wide"
    crops = [reshape.crop(photograph, rng) for rng in draws]
    assert min(part.width * part.height for part in crops) >= reshape.KEPT * 200**2 - 200


def test_an_image_without_a_plain_border_has_no_canvas():
    assert reshape.canvas(numbered(60, 40), reshape.choices("some image", 1)) is None
    assert reshape.plain_ground(cut_out(60, 40, (9, 8, 7))) == (9, 8, 7)


def test_a_line_has_no_canvas_that_fills_the_memory():
    line = Image.new("RGB", (1, 16_000), "white")
    assert all(reshape.canvas(line, reshape.choices("a line", number)) is None for number in range(3))
    assert reshape.canvas(line.crop((0, 0, 1, 400)), reshape.choices("a line", 1)) is not None


def test_a_ground_that_compression_spoiled_is_still_plain():
    pixels = np.asarray(cut_out(60, 40, (240, 240, 240))).astype(int)
    noisy = pixels + np.random.default_rng(0).integers(-3, 4, pixels.shape)
    assert reshape.plain_ground(Image.fromarray(noisy.clip(0, 255).astype(np.uint8))) is not None


def test_choices_depend_on_the_content_and_the_number():
    def drawn(*address):
        return reshape.choices(*address).random(3).tolist()

    assert drawn("a", 1) == drawn("a", 1)
    assert len({tuple(drawn(name, number)) for name in ("a", "b") for number in (1, 2)}) == 4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Cats are cut-outs, dogs are photographs, flags must stay whole."""
    root = tmp_path_factory.mktemp("reshaped")
    images = picture_folder(root / "images")
    for number, path in enumerate(sorted((images / "cat").iterdir())):
        cut_out(60 + 4 * number, 96).save(path)
    (images / "flag").mkdir()
    for number in range(8):
        numbered(120, 64 + number).save(images / "flag" / f"{number}.png")
    return images, prepare(options(images, root / "data")).folder


def options(images, out, **changed):
    given = {"crop": ("dog",), "canvas": ("cat",), "rescale": ("flag",), "reshaped": 2, "max_side": 96} | changed
    return PrepareOptions(images=images, out=out, device="cpu", workers=2, **given)


def test_a_dataset_holds_the_images_and_their_versions(prepared):
    images, folder = prepared
    data = LatentDataset.open(folder)
    count = len(list(images.glob("*/*")))
    assert sorted(set(data.variants)) == ["native", "reshaped-1", "reshaped-2"]
    assert data.info.variants == ("native", "reshaped")
    assert (len(data), data.reshaped.sum()) == (3 * count, 2 * count)
    native = {source: row for row, source in enumerate(data.sources) if not data.reshaped[row]}
    for row in np.flatnonzero(data.reshaped).tolist():
        height, width = data.image_px[row].tolist()
        assert height * width <= 96**2
        if data.sources[row].startswith("flag"):
            own = data.image_px[native[data.sources[row]]]
            assert (data.image_px[row] <= own).all()
            shapes = [np.log(px[1] / px[0]) for px in (data.image_px[row], own)]
            assert abs(shapes[0] - shapes[1]) < 8 / height + 8 / width, "only floored to whole cells"


def test_the_same_images_give_the_same_versions(prepared, tmp_path):
    images, folder = prepared
    assert contents(prepare(options(images, tmp_path / "again")).folder) == contents(folder)


def test_choices_do_not_follow_names_or_what_else_is_there(prepared, tmp_path):
    images, folder = prepared
    (tmp_path / "images" / "dog").mkdir(parents=True)
    for number, path in enumerate(sorted((images / "dog").iterdir())[::-2]):
        shutil.copy(path, tmp_path / "images" / "dog" / f"{number}.png")
    own = str(folder / "autoencoder")  # these are too few to fit one to
    alone = options(tmp_path / "images", tmp_path / "some", canvas=(), rescale=(), autoencoder=own)
    some = versions(prepare(alone).folder)
    assert len(some) == 6 * 3
    assert some.items() <= versions(folder).items()


def versions(folder):
    """The size of each version, by its image's content and its name."""
    data = LatentDataset.open(folder)
    return dict(zip(zip(data.content_hashes, data.variants, strict=True), data.image_px.tolist(), strict=True))


def test_killed_and_run_again_gives_the_undisturbed_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_fsync)
    images = picture_folder(tmp_path / "images", each=2)
    patch_pca().save(tmp_path / "autoencoder")
    own = str(tmp_path / "autoencoder")  # these are too few to fit one to
    given = {"crop": ("dog",), "rescale": ("cat",), "reshaped": 2, "images_per_shard": 2, "autoencoder": own}
    run(images, tmp_path / "undisturbed", **given)
    wanted = contents(tmp_path / "undisturbed")
    instant = 1
    while kill(images, out := tmp_path / f"{instant}", instant, **given):
        run(images, out, **given)
        assert contents(out) == wanted, f"killed before change {instant}"
        instant += 3  # test_restart.py tries each; versions are more rows of the same files
    assert instant > 20


def test_versions_are_trained_on_and_never_measured(prepared):
    data = LatentDataset.open(prepared[1])
    held = data.held_out(0.4)
    for source in set(data.sources):
        own = held[[name == source for name in data.sources]]
        assert own.all() or not own.any(), "all of an image on one side"
    config = TrainConfig(
        model=small_config(channels=data.info.autoencoder.channels, num_classes=3),
        packing=PackingConfig(budget=512),
        steps=1,
        held_out=HeldOutConfig(share=0.4),
    )
    training, measured = loaders(data, config)
    assert measured is not None
    trained = {row for number in range(training.packs_in(0)) for row in training.pack(0, number).indices}
    judged = {row for number in range(measured.packs_in(0)) for row in measured.pack(0, number).indices}
    assert trained == set(np.flatnonzero(~held).tolist())
    assert judged == set(np.flatnonzero(held & ~data.reshaped).tolist())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--crop", "dgo"), "did you mean 'dog'"),
        (("--crop", "dog", "--rescale", "dog"), "dog twice in --crop, --canvas and --rescale"),
        (("--canvas", "cat", "cat"), "cat twice"),
        (("--crop", "dog", "--reshaped", "0"), "reshaped = 0"),
        (("--crop", "dog", "--reshaped", "-2"), "reshaped = -2"),
        (("--reshaped", "2"), "reshaped = 2 and no label"),
    ],
)
def test_bad_input(arguments, told, prepared, tmp_path, refused):
    assert told in refused(prepared[0], "--out", tmp_path / "data", *arguments)
