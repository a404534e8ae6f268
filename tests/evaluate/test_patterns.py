"""The patterns of known failures, on pictures made to have them or not."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from anyres.evaluate.patterns import BANDS, border_contact, duplication, enlarged_for_maps, spectrum, tiling
from anyres.grid import Size
from tests.made import picture

TOP, RIGHT, BOTTOM, LEFT = range(4)


def disc(centre: tuple[int, int], radius: int, ground: int = 255) -> np.ndarray:
    size = Size(96, 128)
    rows, columns = np.mgrid[0 : size.height, 0 : size.width]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    pixels = np.full((size.height, size.width, 3), ground, np.uint8)
    pixels[inside] = (30, 60, 150)
    return pixels


def noisy(pixels: np.ndarray, amount: float = 6.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, amount, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ground", [255, 0, 128])
@pytest.mark.parametrize(
    ("centre", "touched"),
    [((48, 64), []), ((10, 64), [TOP]), ((48, 120), [RIGHT]), ((90, 8), [BOTTOM, LEFT])],
)
def test_content_touches_the_borders_that_cut_it(centre, touched, ground):
    for pixels in (disc(centre, 30, ground=ground), noisy(disc(centre, 30, ground=ground))):
        assert np.flatnonzero(border_contact(pixels)).tolist() == touched


def test_photographs_touch_all_borders_and_empty_pictures_none():
    texture = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    photograph = np.asarray(Image.fromarray(texture).resize((90, 70), Image.Resampling.BICUBIC))
    assert border_contact(photograph).all()
    assert not border_contact(np.full((40, 30, 3), 90, np.uint8)).any()


def test_turning_a_picture_turns_its_contacts():
    pixels = disc((90, 8), 30)
    found = border_contact(pixels)
    assert border_contact(pixels[::-1]).tolist() == found[[BOTTOM, RIGHT, TOP, LEFT]].tolist()
    assert border_contact(pixels[:, ::-1]).tolist() == found[[TOP, LEFT, BOTTOM, RIGHT]].tolist()
    assert border_contact(pixels.transpose(1, 0, 2)).tolist() == found[[LEFT, BOTTOM, RIGHT, TOP]].tolist()


def natural(size: Size, seed: int, power: float = 2.0) -> np.ndarray:
    """Grey noise whose power falls with this power of the frequency."""
    rows, columns = np.fft.fftfreq(size.height)[:, None], np.fft.fftfreq(size.width)[None]
    amplitude = np.hypot(rows, columns)
    amplitude[0, 0] = 1
    amplitude = amplitude ** (-power / 2)
    amplitude[0, 0] = 0
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((size.height, size.width)))
    values = np.fft.ifft2(noise * amplitude).real
    values = 128 + 40 * values / values.std()
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_spectrum_falls_as_it_was_made_to(power):
    found = np.mean([spectrum(natural(Size(256, 192), seed, power)) for seed in range(6)], axis=0)
    slopes = np.diff(found)  # an octave is a factor of 2
    assert slopes == pytest.approx(-power * np.log10(2), abs=0.12)


def test_noise_blur_and_grids_show_in_their_octaves():
    clean = np.mean([spectrum(natural(Size(128, 128), seed)) for seed in range(4)], axis=0)
    blurs = [Image.fromarray(natural(Size(128, 128), s)).filter(ImageFilter.GaussianBlur(1.5)) for s in range(4)]
    blurred = np.mean([spectrum(np.asarray(image)) for image in blurs], axis=0)
    noised = np.mean([spectrum(noisy(natural(Size(128, 128), seed), 40)) for seed in range(4)], axis=0)
    assert blurred[-1] < clean[-1] - 0.5
    assert abs(blurred[0] - clean[0]) < 0.1
    assert noised[-1] > clean[-1] + 0.2
    assert abs(noised[0] - clean[0]) < 0.1
    checkers = (np.indices((128, 128)).sum(axis=0) % 2 * 60).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert spectrum(checkers).argmax() == len(BANDS) - 2


def test_octaves_that_a_small_picture_lacks_are_no_numbers():
    found = spectrum(np.asarray(picture(Size(12, 12), 0)))
    assert np.isnan(found[0])
    assert np.isfinite(found[-1])


@pytest.mark.parametrize("size", [Size(96, 96), Size(64, 200), Size(256, 256)])
def test_pictures_that_repeat_are_told_from_those_that_do_not(size):
    half = natural(Size(size.height // 2, size.width // 2), 1)
    assert tiling(np.tile(half, (2, 2, 1))) > 0.5
    assert tiling(np.tile(natural(Size(16, 16), 2), (size.height // 16, size.width // 16, 1))) > 0.5
    for seed in range(3):
        assert tiling(natural(size, seed)) < 0.3
        assert tiling(natural(size, seed, power=0)) < 0.3  # noise
        assert tiling(np.asarray(picture(size, seed))) < 0.3
    ramp = np.linspace(0, 255, size.width).astype(np.uint8)
    assert tiling(np.broadcast_to(ramp[None, :, None], (size.height, size.width, 3))) < 0.3
    assert tiling(np.full((size.height, size.width, 3), 90, np.uint8)) == 0


def features(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Feature maps that change slowly, as those of pictures."""
    noise = torch.randn((8, rows + 2, columns + 2), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1)


@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (40, 40)])
def test_what_is_there_twice_at_the_shift_of_training_is_found(shape):
    rows, columns = shape
    tiled = features(20, 20, 1).repeat(1, rows // 20, columns // 20)
    assert duplication(tiled, 20) > 0.8
    assert duplication(tiled + 0.5 * features(rows, columns, 2), 20) > 0.4  # not quite the same
    assert abs(np.mean([duplication(features(rows, columns, seed), 20) for seed in range(20)])) < 0.1


def test_repetition_at_other_shifts_and_smooth_images_are_no_duplication():
    assert duplication(features(20, 13, 1).repeat(1, 1, 3), 20) < 0.2
    ramp = torch.arange(40.0)[None, None].expand(4, 20, 40)
    assert duplication(ramp, 20) < 0.05
    assert duplication(torch.ones(4, 20, 40), 20) == 0
    assert duplication(features(20, 20, 1), 20) == 0  # no room for two


@pytest.mark.parametrize(("size", "trained"), [(Size(200, 100), 100), (Size(96, 300), 96), (Size(64, 64), 33)])
def test_pictures_are_resized_until_training_is_a_whole_number_of_positions(size, trained):
    image, shift = enlarged_for_maps(np.asarray(picture(size, 1)), trained, 16, 10)
    assert shift >= 10
    factor = shift * 16 / trained
    assert image.shape[2:] == (round(size.height * factor), round(size.width * factor))
    assert image.dtype == torch.uint8
