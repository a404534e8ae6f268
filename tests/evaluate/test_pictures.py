"""Images brought to one size: what is kept, what is left out, and that nothing is left out in silence."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from anyres.evaluate.pictures import Counts, Framing, Picture, pictures
from anyres.evaluate.sources import open_source
from anyres.grid import Size, native_size
from tests.made import picture

sides = st.integers(1, 60)
large = st.integers(1, 4000)


def all_of(
    folder: Path, framing: Framing | None = None, *, workers: int = 2, **options
) -> tuple[list[Picture], Counts]:
    counts = Counts()
    return list(pictures(open_source(folder), framing or Framing(), counts, workers=workers, **options)), counts


@given(height=sides, width=sides, wanted_height=sides, wanted_width=sides)
def test_framed_pictures_have_the_size_and_are_only_enlarged_when_asked(height, width, wanted_height, wanted_width):
    image, wanted = Image.new("RGB", (width, height)), Size(wanted_height, wanted_width)
    framed = Framing(size=wanted).apply(image)
    large_enough = height >= wanted_height and width >= wanted_width
    assert (framed is not None) == large_enough
    enlarged = Framing(size=wanted, upscale=True).apply(image)
    assert enlarged is not None
    for one in filter(None, (framed, enlarged)):
        assert one.size == (wanted_width, wanted_height)


def test_the_crop_is_central_and_as_large_as_it_can_be():
    columns = np.arange(64, dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(columns[None, :, None], (16, 64, 3)).copy())
    framed = np.asarray(Framing(size=Size(16, 16)).apply(image))
    assert (framed[0, :, 0] == columns[24:40]).all()  # the middle 16 of 64 columns, all rows, not resized
    halved = np.asarray(Framing(size=Size(8, 8)).apply(image)).astype(int)
    np.testing.assert_allclose(halved[0, :, 0], columns[24:40].reshape(8, 2).mean(axis=1), atol=1)


def test_an_image_of_the_size_is_untouched_and_without_a_size_all_are():
    image = picture(Size(24, 40), 1)
    framings = [Framing(), Framing(size=Size(24, 40)), Framing(size=Size(24, 40), upscale=True)]
    for framing in (*framings, Framing(max_side=64), Framing(max_side=64, multiple=8)):
        assert np.array_equal(np.asarray(framing.apply(image)), np.asarray(image))


@given(height=large, width=large, max_side=st.integers(16, 512), multiple=st.sampled_from([1, 2, 8, 16, 32]))
def test_the_greatest_side_is_the_rule_of_preparing_and_leaves_what_it_made_alone(height, width, max_side, multiple):
    framing, image = Framing(max_side=max_side, multiple=multiple), Size(height, width)
    by_rule = native_size(image, multiple, max_side)
    assume(by_rule.area <= max_side**2)  # not of shapes so long that the least side is more than is left of it
    found = framing.size_of(image)
    assert found is not None
    if found == image:  # nothing to do, but for what rounding would take off
        assert max(image.height - by_rule.height, image.width - by_rule.width) <= multiple
        assert image.area <= max_side**2
    else:
        assert found == by_rule
    assert framing.size_of(found) == found
    assert found.height % multiple == found.width % multiple == 0


def test_rounding_does_not_take_a_row_off_a_picture_that_has_the_area_already():
    image = Size(225, 169)  # 195² px; the square root of its shape is not exact, and the rule floors
    assert native_size(image, 1, 195) == Size(224, 168)
    assert Framing(max_side=195).size_of(image) == image


def test_the_greatest_side_keeps_the_shape_and_the_whole_picture():
    columns = np.repeat(np.arange(0, 250, 2, dtype=np.uint8), 4)[:400]
    framed = Framing(max_side=100, multiple=10).apply(
        Image.fromarray(np.broadcast_to(columns[None, :, None], (100, 400, 3)).copy())
    )
    assert framed is not None
    assert framed.size == (200, 50)
    np.testing.assert_allclose(np.asarray(framed)[0, :, 0].astype(float), columns.reshape(200, 2).mean(axis=1), atol=2)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_comes_once_in_order_with_its_label_and_the_hash_of_its_file(tmp_path, workers):
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(5)]
    images = [picture(Size(8, 8 + seed), seed) for seed in range(len(names))]
    for name, image in zip(names, images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    found, counts = all_of(tmp_path, workers=workers)
    assert [one.name for one in found] == names
    assert [one.label for one in found] == [name.split("/")[0] for name in names]
    assert all(np.array_equal(ours.pixels, np.asarray(theirs)) for ours, theirs in zip(found, images, strict=True))
    assert len({one.content_hash for one in found}) == len(names)
    assert (counts.unreadable, counts.small) == (0, 0)
    chosen, _ = all_of(tmp_path, workers=workers, chosen=[7, 2, 2])
    assert [one.name for one in chosen] == [names[7], names[2], names[2]]


def test_the_hash_is_of_the_image_as_it_was(tmp_path):
    picture(Size(16, 16), 1).save(tmp_path / "a.png")
    (whole,), (framed,) = all_of(tmp_path)[0], all_of(tmp_path, Framing(size=Size(8, 8)))[0]
    assert whole.content_hash == framed.content_hash
    assert whole.pixels.shape != framed.pixels.shape


def test_what_is_left_out_is_counted(tmp_path):
    for number, size in enumerate((Size(16, 16), Size(4, 90), Size(20, 16))):
        picture(size, number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found, counts = all_of(tmp_path, Framing(size=Size(8, 8)))
    assert [one.name for one in found] == ["0.png", "2.png"]
    assert (counts.unreadable, counts.small) == (1, 1)
    assert str(counts) == "1 cannot be read, 1 are smaller than the size"


def test_contact_sheets_are_no_images(tmp_path):
    for name in ("a.png", "contact-sheet.png", "contact-sheet-2.png"):
        picture(Size(8, 8), 1).save(tmp_path / name)
    assert list(open_source(tmp_path).names) == ["a.png"]
