"""Images that start from pictures: what stays, what is made, and what an image depends on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres import Start
from anyres.errors import ConfigError, DataError
from anyres.grid import Size
from anyres.packing.pack import PackShape
from anyres.sample.request import SamplingSettings, make_requests
from tests.made import dc_pipeline, picture, pipeline
from tests.sample.helpers import PX, small_pipeline, watched

SOLVERS = ("euler", "heun", "sde")
WIDE, SQUARE = picture(Size(40, 64), 1), picture(Size(48, 48), 2)


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def mask_of(image: Image.Image, *box: int) -> Image.Image:
    """White in (left, top, right, bottom), black elsewhere."""
    mask = Image.new("L", image.size)
    mask.paste(255, box)
    return mask


def requests_for(pipe, *, start, sizes=None, labels=1, seeds=None):
    return make_requests(labels, sizes, seeds, table=pipe.labels, px_per_token=pipe.px_per_token, start=start)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def starts() -> list[Start | None]:
    return [
        Start(WIDE, strength=0.75),
        Start(SQUARE, strength=0.25),
        None,
        Start(WIDE, mask=mask_of(WIDE, 16, 8, 40, 24)),
        Start(SQUARE, place="extend"),
        Start(WIDE, place=(8, 16), strength=0.5),
    ]


SIZES = ["64x40", "48x64", "24x24", "64x40", "80x48", "88x64"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("patch", [1, 2])
def test_bit_identical_alone_among_others_and_in_another_order(solver, patch):
    pipe, shape = small_pipeline(patch_size=patch), PackShape.fitting(400, 8, 100)
    sizes = ["64x48", "48x64", "32x32", "64x48", "80x48", "96x64"]
    given = [*starts()[:5], Start(WIDE, place=(16, 16), strength=0.5)]
    requests = requests_for(pipe, start=given, sizes=sizes)
    settings = replace(pipe.defaults, solver=solver)
    together = pipe.latents(requests, settings, shape=shape)
    backwards = pipe.latents(requests[::-1], settings, shape=shape)[::-1]
    for a, b, request in zip(together, backwards, requests, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, pipe.latents([request], settings, shape=shape)[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_follows_from_its_own_picture_strength_mask_seed_and_label(pipe, solver):
    def one(picture=WIDE, seeds=3, labels=1, **how):
        return pixels(pipe(labels, start=Start(picture, **{"strength": 0.75, **how}), seeds=seeds, solver=solver)[0])

    base = one()
    assert (base == one()).all()
    for changed in (
        {"picture": picture(Size(40, 64), 9)},
        {"strength": 0.5},
        {"mask": mask_of(WIDE, 0, 0, 32, 40)},
        {"seeds": 4},
        {"labels": 2},
    ):
        assert (base != one(**changed)).any(), changed


@pytest.mark.parametrize("solver", SOLVERS)
def test_strength_one_is_sampling_and_strength_zero_would_be_the_picture(pipe, solver):
    settings = replace(pipe.defaults, solver=solver)
    whole = requests_for(pipe, start=Start(WIDE, strength=1.0), seeds=5)
    plain = requests_for(pipe, start=None, sizes="64x40", seeds=5)
    assert torch.equal(pipe.latents(whole, settings)[0], pipe.latents(plain, settings)[0])
    with pytest.raises(ConfigError, match="of which all stays"):
        requests_for(pipe, start=Start(WIDE, strength=0.0))


def test_a_greater_strength_leads_further_away(pipe):
    reference = pixels(pipe.decode([encoded(pipe, WIDE)])[0])

    def distance(strength):
        made = pixels(pipe(1, start=Start(WIDE, strength=strength), steps=20, guidance=1.0)[0])
        return float(np.abs(made - reference).mean())

    distances = [distance(strength) for strength in (0.05, 0.25, 0.5, 0.75, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[-1]


def encoded(pipe, image):
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return pipe.autoencoder.encode(images)[0]


def test_the_network_takes_the_schedules_part_below_the_strength(pipe, monkeypatch):
    with watched(pipe.model, monkeypatch) as calls:
        pipe(1, start=Start(WIDE, strength=0.6), steps=10, guidance=1.0)
    assert calls.times == [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert calls.prepared == 1
    with watched(pipe.model, monkeypatch) as calls:  # those of a pack that come later wait for the first
        pipe(1, start=[Start(WIDE, strength=0.6), Start(WIDE, strength=0.2)], steps=10, guidance=1.0)
    assert calls.times == [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize(("solver", "least"), [("euler", 0.1), ("sde", 0.04)])
def test_a_strength_that_leaves_no_step_is_refused(pipe, solver, least):
    def made(strength):
        return pipe(1, start=[None, Start(WIDE, strength=strength)], sizes="64x40", steps=10, solver=solver)

    made(least)
    with pytest.raises(ConfigError, match=f"a strength of at least {least}"):
        made(0.5 * least)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tokens_that_the_mask_keeps_whole_stay_exactly_and_no_others(solver):
    pipe = small_pipeline()
    mask = mask_of(WIDE, 17, 8, 40, 24)  # touches tokens 2 to 4 of rows 1 and 2
    latent = pipe.latents(requests_for(pipe, start=Start(WIDE, mask=mask)), replace(pipe.defaults, solver=solver))[0]
    same = (latent - encoded(pipe, WIDE)).abs().amax(dim=0) < 1e-4
    expected = torch.ones(5, 8, dtype=torch.bool)
    expected[1:3, 2:5] = False
    assert torch.equal(same, expected)


@pytest.mark.parametrize("make", [dc_pipeline, pipeline])
def test_px_that_stay_are_the_pictures_away_from_what_is_made(make):
    pipe = make()
    px = pipe.px_per_token
    image = picture(Size(8 * px, 6 * px), 3)
    box = (2 * px, 3 * px, 4 * px, 5 * px)
    made = {}
    for paste in (False, True):
        made[paste] = pixels(pipe(1, start=Start(image, mask=mask_of(image, *box), paste=paste))[0])
    difference = np.abs(made[True] - pixels(image)).max(axis=2)
    far = np.ones(difference.shape, dtype=bool)
    far[2 * px : 6 * px, px : 5 * px] = False  # a token around
    assert (difference[far] == 0).all()
    inside = (slice(3 * px, 5 * px), slice(2 * px, 4 * px))
    assert (made[True][inside] == made[False][inside]).all()  # nothing of the masked px comes back
    assert (np.abs(made[False] - pixels(image)).max(axis=2)[far] > 0).any()


def test_variations_of_one_picture_at_five_shapes_are_one_pack(pipe, monkeypatch):
    sizes = ["48x48", "64x40", "40x64", "96x24", "24x96"]
    with watched(pipe.model, monkeypatch) as calls:
        made = pipe(1, sizes, start=Start(SQUARE, strength=0.5), steps=4, guidance=1.0)
    assert [f"{image.width}x{image.height}" for image in made] == sizes
    assert calls.tokens == [36 + 40 + 40 + 36 + 36] * 2


def canvas(start: Start, size: str):
    return start.laid_on(Size.parse(size), PX)


def test_crop_covers_the_image_with_the_middle_of_the_picture():
    found = canvas(Start(WIDE), "40x40")
    assert np.array_equal(np.asarray(found.pixels), np.asarray(WIDE.crop((12, 0, 52, 40))))
    assert found.shown.all()
    assert not found.kept.any()
    assert canvas(Start(WIDE), "64x40").pixels.tobytes() == WIDE.tobytes()


def test_stretch_shows_all_of_the_picture_in_another_shape():
    found = canvas(Start(WIDE, place="stretch"), "40x40")
    assert np.array_equal(np.asarray(found.pixels), np.asarray(WIDE.resize((40, 40), Image.Resampling.BICUBIC)))


def test_extend_shows_the_whole_picture_in_the_middle_on_whole_tokens():
    found = canvas(Start(SQUARE, place="extend"), "88x48")
    assert np.array_equal(found.shown, found.kept)
    columns = np.flatnonzero(found.shown.any(axis=0))
    assert (columns[0], columns[-1] + 1) == (16, 64)  # not 20, which would split tokens
    assert found.pixels.crop((16, 0, 64, 48)).tobytes() == SQUARE.tobytes()
    grid = found.release(PX).reshape(6, 11)
    assert (grid[:, 2:8] == 0).all()
    assert (grid[:, :2] == 1).all()
    assert (grid[:, 8:] == 1).all()


def test_an_extended_picture_with_a_strength_is_a_variation_whose_margins_are_new():
    grid = canvas(Start(SQUARE, place="extend", strength=0.5), "88x48").release(PX).reshape(6, 11)
    assert (grid[:, 2:8] == 0.5).all()
    assert (grid[:, [0, 1, 8, 9, 10]] == 1).all()


@pytest.mark.parametrize("place", [(16, 8), "16,8"])
def test_an_offset_puts_the_picture_there_and_partly_covered_tokens_are_made(place):
    small = picture(Size(20, 24), 4)
    found = canvas(Start(small, place=place), "64x48")
    assert found.pixels.crop((16, 8, 40, 28)).tobytes() == small.tobytes()
    grid = found.release(PX).reshape(6, 8)
    assert (grid[1:3, 2:5] == 0).all()
    assert int((grid == 0).sum()) == 6  # the picture's last four rows of px fill no token
    assert int(found.kept.sum()) == 20 * 24


def test_a_mask_is_placed_as_its_picture_is():
    mask = mask_of(SQUARE, 0, 0, 24, 48)
    found = canvas(Start(SQUARE, mask=mask, place="extend"), "96x48")
    grid = found.release(PX).reshape(6, 12)
    assert (grid[0] == torch.tensor([1.0] * 6 + [0.0] * 3 + [1.0] * 3)).all()
    scaled = canvas(Start(SQUARE, mask=mask), "96x96").release(PX).reshape(12, 12)
    # the white's edge, scaled, touches one token more
    assert (scaled[0] == torch.tensor([1.0] * 7 + [0.0] * 5)).all()


def test_a_picture_without_a_size_has_its_own_floored_to_tokens(pipe):
    assert requests_for(pipe, start=Start(picture(Size(45, 70), 1)))[0].size == Size(40, 64)
    with pytest.raises(ConfigError, match="got no size"):
        requests_for(pipe, start=[Start(WIDE), None])


def test_lists_of_pictures_go_together_with_the_others(pipe):
    made = requests_for(pipe, start=[Start(WIDE), Start(SQUARE)], labels=[1, 2])
    assert [(r.label, r.size) for r in made] == [(1, Size(40, 64)), (2, Size(48, 48))]
    with pytest.raises(ConfigError, match="3 labels, 2 start"):
        requests_for(pipe, start=[Start(WIDE), Start(SQUARE)], labels=[1, 2, 3])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"strength": 1.5}, "strength 1.5"),
        ({"strength": float("nan")}, "strength nan"),
        ({"place": "strech"}, "did you mean 'stretch'"),
        ({"place": "8;8"}, "LEFT,TOP"),
        ({"place": (-8, 0)}, "0 or more"),
        ({"mask": Image.new("L", (64, 41))}, "a mask of 64x41 px on a picture of 64x40 px"),
    ],
)
def test_impossible_starts_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        Start(WIDE, **bad)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(WIDE, place=(4, 0)), "use 0,0"),
        (Start(WIDE, place=(24, 0)), "an image that holds all of it"),
        (Start(WIDE, mask=Image.new("L", WIDE.size)), "of which all stays"),
        (Start(WIDE.resize((80, 48)), place="extend"), "of which all stays"),
    ],
)
def test_pictures_that_do_not_fit_their_image_are_refused(start, message):
    with pytest.raises(ConfigError, match=message):
        canvas(start, "80x48")


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png cannot be used: cannot be read: No such file"):
        Start(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="of a kind that cannot be read"):
        Start(WIDE, mask=tmp_path / "text.png")


def test_pictures_are_upright_rgb_over_white(tmp_path: Path) -> None:
    turned, exif = picture(Size(16, 24), 5), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert Start(tmp_path / "turned.png").own_size == Size(24, 16)
    assert Start(Image.open(tmp_path / "turned.png")).own_size == Size(24, 16)
    clear = Image.new("RGBA", (16, 16), (10, 20, 30, 0))
    assert canvas(Start(clear), "16x16").pixels.getpixel((3, 3)) == (255, 255, 255)


def test_the_callback_sees_every_step_whatever_the_strength(pipe):
    seen = []
    pipe(1, start=Start(WIDE, strength=0.5), steps=4, on_step=lambda info: seen.append((info.step, info.steps)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_settings_know_their_times():
    assert SamplingSettings(steps=4).times() == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert SamplingSettings(steps=4, solver="sde").times()[-2:] == (pytest.approx(0.04), 0)
