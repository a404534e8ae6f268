"""The checks for known failures: seen in sets made to have them, and not in real-looking ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from anyres.errors import ConfigError
from anyres.evaluate.signatures import bleeding, check_bleeding, check_pictures
from anyres.grid import Grid, Size
from anyres.model.nit import NiT
from anyres.packing.pack import PackLayout
from tests.evaluate.conftest import Colours
from tests.evaluate.test_patterns import noisy
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


@pytest.fixture(scope="module")
def cut_outs() -> list[np.ndarray]:
    """Public-domain clip art at 128² px of area or less."""
    folder = Path(__file__).parents[2] / "examples" / "clipart" / "images"
    found = []
    for path in sorted(folder.rglob("*.*"))[:120]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((160, 160))
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


def test_few_pictures_and_no_data_are_not_judged(cut_outs):
    assert set(verdicts(cut_outs[:4], cut_outs).values()) == {"not measured"}
    assert set(verdicts(cut_outs, None).values()) == {"not measured"}
    found = check_pictures(cut_outs, None, None, None)[0]
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
