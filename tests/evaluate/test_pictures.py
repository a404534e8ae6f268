"""Images brought to one size: what is kept, what is left out, and that nothing is left out in silence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anyres.evaluate.pictures import Counts, Framing, batches, find
from anyres.grid import Size
from tests.made import picture

sides = st.integers(1, 60)


def all_of(folder, framing=None, *, batch=4, workers=2):
    counts = Counts()
    found = list(batches(folder, find(folder), framing or Framing(), counts, batch=batch, workers=workers))
    return found, counts


@given(height=sides, width=sides, wanted_height=sides, wanted_width=sides)
def test_framed_pictures_have_the_size_and_are_only_enlarged_when_asked(height, width, wanted_height, wanted_width):
    image, wanted = Image.new("RGB", (width, height)), Size(wanted_height, wanted_width)
    framed = Framing(size=wanted).apply(image)
    large_enough = height >= wanted_height and width >= wanted_width
    assert (framed is not None) == large_enough
    enlarged = Framing(size=wanted, upscale=True).apply(image)
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
    for framing in (Framing(), Framing(size=Size(24, 40)), Framing(size=Size(24, 40), upscale=True)):
        assert np.array_equal(np.asarray(framing.apply(image)), np.asarray(image))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_hold_every_image_once_in_order_and_of_one_size(tmp_path, workers):
    sizes = [Size(8, 8)] * 6 + [Size(8, 12)] * 2 + [Size(8, 8)]
    images = [picture(size, seed) for seed, size in enumerate(sizes)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    found, counts = all_of(tmp_path, workers=workers)
    assert [len(batch) for batch in found] == [4, 2, 2, 1]
    flat = [pixels for batch in found for pixels in batch]
    assert all(np.array_equal(ours, np.asarray(theirs)) for ours, theirs in zip(flat, images, strict=True))
    assert (counts.used, counts.unreadable, counts.small) == (9, 0, 0)


def test_what_is_left_out_is_counted(tmp_path):
    for number, size in enumerate((Size(16, 16), Size(4, 90), Size(20, 16))):
        picture(size, number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found, counts = all_of(tmp_path, Framing(size=Size(8, 8)))
    assert sum(map(len, found)) == counts.used == 2
    assert (counts.unreadable, counts.small) == (1, 1)


def test_contact_sheets_are_no_images(tmp_path):
    for name in ("a.png", "contact-sheet.png", "contact-sheet-2.png"):
        picture(Size(8, 8), 1).save(tmp_path / name)
    assert [file.source for file in find(tmp_path)] == ["a.png"]
