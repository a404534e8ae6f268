"""The checks for known failures: seen in sets made to have them, and not in real-looking ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from anyres.errors import CheckpointError, ConfigError
from anyres.evaluate.signatures import Check, bleeding, check_bleeding, check_pictures
from anyres.grid import Grid, Size
from anyres.model.nit import NiT
from anyres.packing.pack import PackLayout
from tests.evaluate.conftest import Colours
from tests.evaluate.test_patterns import natural, noisy
from tests.model.helpers import random_model, small_config

GRIDS = [Grid(3, 5), Grid(4, 4), Grid(6, 2)]


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_images_of_a_pack_do_not_see_each_other(attention):
    found = check_bleeding(random_model(small_config(), attention=attention), GRIDS, [0, 1, 2])
    assert found.made is not None
    assert found.made.value == 0
    assert found.verdict == "not seen"


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_a_pack_without_borders_between_two_images_bleeds(attention):
    model = random_model(small_config(), attention=attention)
    merged = PackLayout.from_grids([Grid(1, 31), Grid(6, 2)])  # the first two images as one
    labels = [0, 1]
    assert bleeding(model, GRIDS, labels, layout=merged) > 1e-2


def test_a_network_that_sees_nothing_is_refused_rather_than_acquitted():
    with pytest.raises(ConfigError, match="does not depend on its own tokens"):
        bleeding(NiT(small_config()), GRIDS, [0, 1, 2])
    with pytest.raises(ConfigError, match="1 images in a pack"):
        bleeding(random_model(small_config()), GRIDS[:1], [0])


def test_an_untrained_network_can_be_evaluated_and_is_not_judged():
    found = check_bleeding(NiT(small_config()), GRIDS, [0, 1, 2])
    assert (found.verdict, found.made) == ("not measured", None)
    assert "does not depend on its own tokens" in found.note


def test_a_network_of_damaged_weights_is_refused_rather_than_acquitted():
    model = random_model(small_config(), attention="sdpa")
    with torch.no_grad():
        next(weights for weights in model.parameters() if weights.ndim > 1)[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        check_bleeding(model, GRIDS, [0, 1, 2])


def test_bleeding_is_measured_whatever_the_mode_of_the_caller_and_by_its_seed():
    model = random_model(small_config(), attention="sdpa")
    merged = PackLayout.from_grids([Grid(1, 31), Grid(6, 2)])
    found = [bleeding(model, GRIDS, [0, 1], layout=merged, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    with torch.no_grad():
        assert bleeding(model, GRIDS, [0, 1], layout=merged) == found[0]
        assert not torch.is_grad_enabled()


@pytest.fixture(scope="module")
def cut_outs() -> list[np.ndarray]:
    """Public-domain clip art of at most 96 px a side."""
    folder = Path(__file__).parents[2] / "examples" / "clipart" / "images"
    found = []
    for path in sorted(folder.rglob("*.*"))[::3]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((96, 96))
        found.append(np.asarray(image))
    return found


def verdicts(made: list[np.ndarray], data: list[np.ndarray] | None, **given) -> dict[str, str]:
    return {check.name: check.verdict for check in check_pictures(made, data, None, None, **given)}


def test_real_pictures_are_acquitted(cut_outs):
    found = verdicts(cut_outs[::2], cut_outs[1::2])
    assert {name for name, verdict in found.items() if verdict == "seen"} == set()
    assert found["duplication"] == "not measured"


def cropped(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[height // 5 : -(height // 5), width // 5 : -(width // 5)]


def padded(pixels: np.ndarray) -> np.ndarray:
    return np.pad(pixels, ((12, 12), (12, 12), (0, 0)), constant_values=255)


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (cropped, "border contact"),
        (lambda p: np.tile(p[: len(p) // 2], (2, 1, 1)), "tiling"),
        (lambda p: np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(2))), "spectrum"),
        (lambda p: noisy(p, 40), "spectrum"),
    ],
)
def test_made_failures_are_seen(cut_outs, failure, name):
    data = [padded(pixels) for pixels in cut_outs]
    made = [failure(pixels) for pixels in data[::2]]
    check = next(one for one in check_pictures(made, data[1::2], None, None) if one.name == name)
    assert check.verdict == "seen"
    assert check.difference is not None
    assert check.made is not None
    assert check.data is not None
    assert check.difference.value == pytest.approx(check.made.value - check.data.value)


def test_objects_that_are_there_twice_are_seen_beyond_the_size_of_training_only():
    rng = np.random.default_rng(0)

    def scene(size: Size) -> np.ndarray:
        coarse = rng.integers(0, 256, (size.height // 16, size.width // 16, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((size.width, size.height), Image.Resampling.BICUBIC))

    network = Colours()
    network.map_px = 1
    data = [scene(Size(64, 128)) for _ in range(30)]
    twice = [np.tile(scene(Size(64, 64)), (1, 2, 1)) for _ in range(30)]
    for made, trained, verdict in ((twice, 64, "seen"), (data, 64, "not seen"), (twice, 128, "not measured")):
        real = [scene(Size(64, 128)) for _ in range(30)]
        check = check_pictures(made, real, network, Size(trained, trained))[1]
        assert (check.name, check.verdict) == ("duplication", verdict)


def spectrum_of(made: list[np.ndarray], data: list[np.ndarray] | None) -> Check:
    return next(check for check in check_pictures(made, data, None, None) if check.name == "spectrum")


def test_the_worst_of_several_octaves_is_held_to_a_wider_interval():
    """One of several is off by chance more often than one alone: its interval is not the one of a single difference."""
    data, made = ([natural(Size(128, 128), seed) for seed in range(start, start + 30)] for start in (0, 30))
    widths = {}
    for check in check_pictures(made, data, None, None):
        if check.name in ("tiling", "spectrum"):
            assert check.difference is not None
            assert check.made is not None
            assert check.data is not None
            own = np.hypot(check.made.high - check.made.low, check.data.high - check.data.low)
            widths[check.name] = (check.difference.high - check.difference.low) / own
    assert widths["tiling"] == pytest.approx(1, abs=0.1)
    assert widths["spectrum"] > 1.1  # 1.27 for four steps of normal means


def test_contrast_is_no_wrong_spectrum_and_hides_none():
    data, made = ([natural(Size(64, 64), seed) for seed in range(start, start + 20)] for start in (0, 20))

    def faded(pixels: np.ndarray) -> np.ndarray:
        return (128 + (pixels.astype(float) - 128) / 2).round().astype(np.uint8)

    assert spectrum_of([faded(pixels) for pixels in made], data).verdict == "not seen"
    assert spectrum_of([faded(noisy(pixels, 60)) for pixels in made], data).verdict == "seen"


@pytest.mark.parametrize(
    ("made", "data", "note"),
    [
        ((50, 32), (4, 32), "fewer than 10 real pictures"),
        ((4, 32), (50, 32), "fewer than 10 made pictures"),
        ((4, 32), (4, 32), "fewer than 10 made and real pictures"),
        ((0, 32), (20, 32), "fewer than 10 made pictures"),
        ((20, 32), (0, 32), "fewer than 10 real pictures"),
        ((20, 12), None, "fewer than 10 real pictures"),
        ((20, 2), (20, 2), "large enough"),
        ((20, 12), (20, 2), "large enough"),
    ],
)
def test_a_spectrum_that_cannot_be_compared_says_why(made, data, note):
    rng = np.random.default_rng(0)

    def pictures(count: int, side: int) -> list[np.ndarray]:
        return list(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8))

    found = spectrum_of(pictures(*made), data and pictures(*data))
    assert found.verdict == "not measured"
    assert note in found.note
    assert (found.made, found.data, found.difference) == (None, None, None)


def test_small_pictures_are_compared_by_the_octaves_that_they_have():
    rng = np.random.default_rng(0)
    small = list(rng.integers(0, 256, (20, 24, 24, 3), dtype=np.uint8))
    large = list(rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    found = spectrum_of(small, large)
    assert found.verdict == "not seen"
    assert found.note.startswith("1/4 to 1/2")
    assert found.difference is not None
    assert found.difference.low < 0 < found.difference.high


def test_the_shape_of_pictures_is_no_wrong_spectrum():
    """Strips of pictures against the pictures that they come from."""
    scenes = [natural(Size(256, 256), seed) for seed in range(24)]
    strips = [scene[100:124] for scene in scenes[:12]]
    assert spectrum_of(strips, scenes[12:]).verdict == "not seen"


@pytest.mark.parametrize("size", [Size(48, 48), Size(32, 512)])
def test_extreme_sizes_and_blank_pictures_give_numbers(size):
    rng = np.random.default_rng(0)
    pictures = [np.full((size.height, size.width, 3), level, np.uint8) for level in (0, 90, 255)] * 2
    pictures += [rng.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8) for _ in range(6)]
    for check in check_pictures(pictures, pictures, Colours(), Size(128, 128)):
        assert check.verdict == ("not measured" if check.name == "duplication" else "not seen")
        assert all(np.isfinite(part.value) for part in (check.made, check.data, check.difference) if part)


def test_duplication_that_is_not_measured_says_which_of_its_needs_is_missing(cut_outs):
    notes = [
        check_pictures(cut_outs[:12], cut_outs[:12], *given)[1].note
        for given in ((None, Size(64, 64)), (Colours(), None), (Colours(), Size(512, 512)))
    ]
    assert "no feature network" in notes[0]
    assert "--trained-side" in notes[1]
    assert "at least 768 by 256 px" in notes[2]


def test_few_pictures_and_no_data_are_not_judged(cut_outs):
    assert set(verdicts(cut_outs[:4], cut_outs[:20]).values()) == {"not measured"}
    assert set(verdicts(cut_outs[:20], None).values()) == {"not measured"}
    found = check_pictures(cut_outs[:20], None, None, None)[0]
    assert found.made is not None
    assert found.data is None
    assert "real pictures" in found.note


def test_verdicts_do_not_hang_on_the_seed(cut_outs):
    made = [cropped(padded(pixels)) for pixels in cut_outs[::2]]
    data = [padded(pixels) for pixels in cut_outs[1::2]]
    assert verdicts(made, data, seed=1) == verdicts(made, data, seed=2)


def test_bleeding_is_found_in_any_place_of_the_pack():
    """Whichever image sees another, the greatest share is told."""
    model = random_model(small_config(), attention="reference")
    for boundary in ([Grid(1, 15), Grid(1, 28)], [Grid(1, 31), Grid(1, 12)]):
        assert bleeding(model, GRIDS, [0, 1], layout=PackLayout.from_grids(boundary)) > 1e-2
    assert torch.is_grad_enabled()
