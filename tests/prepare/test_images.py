"""Decoding: what a viewer shows is what is encoded, and files that cannot be used say why."""

import contextlib
import hashlib
import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anyres.grid import Size
from anyres.prepare.images import RejectedImageError, UnreadableImageError, centre_crop, decode, resize, stamp
from tests.made import picture

ORIENTATION = 0x0112  # the EXIF tag
# what was done to the upright picture before it was stored, for the viewer to undo (EXIF 2.32, section 4.6.4)
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def pixels(path):
    image = decode(path).pixels
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_every_exif_orientation_gives_the_upright_picture(tmp_path, orientation, kind):
    upright = picture(Size(24, 40), 1)
    how = STORED_AS[orientation]
    stored = upright if how is None else upright.transpose(how)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"one.{kind}"
    stored.save(path, exif=exif, **({"quality": 95} if kind != "png" else {}))
    decoded = decode(path)
    assert decoded.size == Size(24, 40)
    assert np.abs(np.asarray(decoded.pixels).astype(int) - np.asarray(upright)).mean() < 6, (
        "lossy kinds differ a little"
    )


def test_sixteen_bit_and_transparent_pictures_are_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10000
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    assert pixels(tmp_path / "deep.png")[..., 0].tolist() == np.rot90(np.round(deep / 257), -1).tolist()
    clear = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "clear.png", exif=exif)
    turned = pixels(tmp_path / "clear.png")
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].tolist() == [10, 20, 30]
    assert (turned.reshape(-1, 3) == 255).all(axis=1).sum() == 5


@given(st.tuples(*[st.integers(0, 255)] * 4))
@settings(max_examples=30, deadline=None)
def test_alpha_lies_over_white(tmp_path_factory, colour):
    folder = tmp_path_factory.mktemp("alpha")
    red, _, _, alpha = colour
    Image.new("RGBA", (4, 3), colour).save(folder / "rgba.png")
    Image.new("LA", (4, 3), (red, alpha)).save(folder / "la.png")

    def over_white(value):
        return (value * alpha + 255 * (255 - alpha)) / 255

    assert np.abs(pixels(folder / "rgba.png") - [over_white(value) for value in colour[:3]]).max() <= 1
    assert np.abs(pixels(folder / "la.png") - over_white(red)).max() <= 1


def test_a_palettes_transparency_lies_over_white(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "one.png", transparency=1)
    image.save(tmp_path / "each.png", transparency=bytes([255, 128, 0]))
    image.save(tmp_path / "one.gif", transparency=1)
    image.save(tmp_path / "opaque.png")
    white, red, blue = [255, 255, 255], [255, 0, 0], [0, 0, 255]
    assert pixels(tmp_path / "one.png")[0].tolist() == [red, white, blue]
    assert pixels(tmp_path / "one.gif")[0].tolist() == [red, white, blue]
    assert pixels(tmp_path / "each.png")[0].tolist() == [red, [127, 255, 127], white]
    assert pixels(tmp_path / "opaque.png")[0].tolist() == [red, [0, 255, 0], blue]


def test_a_colour_that_means_transparent_is_white(tmp_path):
    Image.fromarray(np.array([[[9, 9, 9], [9, 9, 8]]], np.uint8)).save(tmp_path / "rgb.png", transparency=(9, 9, 9))
    Image.fromarray(np.array([[9, 8]], np.uint8)).save(tmp_path / "grey.png", transparency=9)
    Image.fromarray(np.array([[2570, 2571]], np.uint16)).save(tmp_path / "deep.png", transparency=2570)
    assert pixels(tmp_path / "rgb.png")[0].tolist() == [[255] * 3, [9, 9, 8]]
    assert pixels(tmp_path / "grey.png")[0].tolist() == [[255] * 3, [8] * 3]
    assert pixels(tmp_path / "deep.png")[0].tolist() == [[255] * 3, [10] * 3]


def test_grey_and_one_bit(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (pixels(tmp_path / "grey.png") == grey[..., None]).all()
    bits = grey > 100
    for name in ("bits.png", "bits.tif"):
        Image.fromarray(bits).save(tmp_path / name)
        assert (pixels(tmp_path / name) == 255 * bits[..., None]).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert (pixels(tmp_path / name) == np.round(deep / 257)[..., None]).all()
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "int.tif")
    assert (pixels(tmp_path / "int.tif") == np.round(deep / 257)[..., None]).all()


def test_floats_are_scaled_by_their_white(tmp_path):
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for name, values in (("one.tif", ramp), ("byte.tif", ramp * 255)):
        Image.fromarray(values).save(tmp_path / name)
        assert (pixels(tmp_path / name) == np.round(ramp * 255)[..., None]).all()


@pytest.mark.parametrize("wrong", [-0.5, 300.0, float("nan"), float("inf")])
def test_floats_without_a_known_white_are_rejected(tmp_path, wrong):
    Image.fromarray(np.array([[0.5, wrong]], np.float32)).save(tmp_path / "one.tif")
    with pytest.raises(RejectedImageError, match="white is not known"):
        decode(tmp_path / "one.tif")


def test_cmyk(tmp_path):
    for name in ("one.tif", "one.jpg"):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / name)
        assert np.abs(pixels(tmp_path / name).astype(int) - [255, 0, 0]).max() <= 3


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("one.gif", "one.webp", "one.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert pixels(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


def test_the_hash_and_the_stamp_are_the_files(tmp_path):
    path = tmp_path / "one.png"
    picture(Size(8, 8), 0).save(path)
    assert decode(path).content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    before = stamp(path)
    assert stamp(path) == before
    path.write_bytes(path.read_bytes() + b"!")
    assert stamp(path) != before
    assert stamp(tmp_path / "none.png") == "missing"


def encoded(kind):
    data = io.BytesIO()
    picture(Size(32, 32), 3).save(data, kind)
    return data.getvalue()


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_rejected(tmp_path, kind, share):
    data = encoded(kind)
    (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
    with pytest.raises(RejectedImageError, match=r"corrupt or truncated|not an image"):
        decode(tmp_path / "cut")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.binary(max_size=64), st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "TGA"]), st.data())
@settings(max_examples=60, deadline=None)
def test_damage_of_any_kind_decodes_or_is_rejected(tmp_path_factory, noise, kind, data):
    good = encoded(kind)
    at = data.draw(st.integers(0, len(good)))
    path = tmp_path_factory.mktemp("damaged") / "one"
    path.write_bytes(good[:at] + noise + good[at + len(noise) :])
    with contextlib.suppress(RejectedImageError):
        assert decode(path).pixels.mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would run Ghostscript
        (encoded("PNG")[:8] + b"\0" * 100, "not an image|corrupt"),
    ],
)
def test_files_that_are_no_images_are_rejected(tmp_path, data, reason):
    (tmp_path / "one.png").write_bytes(data)
    with pytest.raises(RejectedImageError, match=reason):
        decode(tmp_path / "one.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_rejected_before_it_is_decoded(tmp_path, monkeypatch):
    picture(Size(30, 30), 0).save(tmp_path / "one.png")
    for bound, size in ((899, "30x30 px"), (449, "more than twice")):  # Pillow only warns of the first
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
        with pytest.raises(RejectedImageError, match=f"too large to decode safely: {size}.*{bound} px"):
            decode(tmp_path / "one.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert decode(tmp_path / "one.png").size == Size(30, 30)


def test_what_is_not_a_readable_file_may_be_tried_again(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # must not be waited for
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, reason in (("folder", "not a file"), ("pipe", "not a file"), ("dangling", "cannot be read: No such")):
        with pytest.raises(UnreadableImageError, match=reason):
            decode(tmp_path / f"{name}.png")


def test_an_enormous_file_is_not_read(tmp_path):
    with (tmp_path / "huge.tif").open("wb") as file:
        file.truncate(2**42)  # takes no space
    with pytest.raises(RejectedImageError, match="too large to decode safely: 4,398,046,511,104 bytes"):
        decode(tmp_path / "huge.tif")


def adm_crop(image, side):
    """`center_crop_arr` of guided-diffusion (Dhariwal and Nichol 2021), on (width, height)."""
    width, height = image.size
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.BOX)
    scale = side / min(width, height)
    values = np.array(image.resize((round(width * scale), round(height * scale)), Image.BICUBIC))
    top, left = (values.shape[0] - side) // 2, (values.shape[1] - side) // 2
    return values[top : top + side, left : left + side]


@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([16, 31, 32]))
@settings(max_examples=60, deadline=None)
def test_the_square_crop_is_adms(height, width, side):
    image = picture(Size(height, width), 5)
    crop = centre_crop(image, side)
    assert crop.size == (side, side)
    assert (np.asarray(crop) == adm_crop(image, side)).all()


def test_resizing_keeps_the_picture_and_nothing_is_done_to_its_own_size():
    image = picture(Size(40, 24), 2)
    assert resize(image, Size(40, 24)) is image
    small = resize(image, Size(20, 12))
    assert small.size == (12, 20)
    means = np.asarray(image).reshape(20, 2, 12, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(small) - means).mean() < 4
