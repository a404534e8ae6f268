"""A folder and an .npz file give the same pictures; an .npz file stays on disk, and a bad one is refused."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from anyres.errors import DataError
from anyres.evaluate.pictures import Counts, Framing, pictures
from anyres.evaluate.sources import FolderSource, NpzSource, Source, npz_array, npz_names, open_source
from anyres.grid import Size
from anyres.prepare.images import RejectedImageError
from tests.evaluate.made_sets import picture_files, tinted

IMAGES = np.stack([np.asarray(tinted(number, Size(12, 16))) for number in range(24)])
SAVES = {"stored": np.savez, "compressed": np.savez_compressed}


def saved(path: Path, how: str = "stored", **arrays: np.ndarray) -> Path:
    SAVES[how](path, **({"arr_0": IMAGES} | arrays))
    return path


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("framing", [Framing(), Framing(size=Size(8, 8)), Framing(max_side=8, multiple=2)])
def test_a_folder_and_an_npz_file_give_the_same_pictures(tmp_path, how, framing):
    folder = open_source(picture_files(tmp_path / "images", range(24), Size(12, 16)))
    file = open_source(saved(tmp_path / "images.npz", how))
    assert isinstance(folder, FolderSource)
    assert isinstance(file, NpzSource)
    ours, theirs = (list(pictures(source, framing, Counts(), workers=2)) for source in (folder, file))
    assert len(ours) == len(theirs) == 24
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.label == other.label == "unlabelled"
    assert [one.name for one in theirs] == list(map(str, range(24)))


def test_class_numbers_are_labels(tmp_path):
    assert open_source(saved(tmp_path / "a.npz", arr_1=np.arange(24) // 8)).labels == [str(i // 8) for i in range(24)]


@pytest.mark.parametrize("how", SAVES)
def test_the_images_stay_on_disk_and_many_threads_read_them(tmp_path, how):
    path = saved(tmp_path / "a.npz", how, arr_1=np.arange(24))
    mapped = npz_array(path, "arr_0")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    source = open_source(path)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(24), 20)).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: np.asarray(source.read(i).pixels), order))
    assert all(np.array_equal(pixels, IMAGES[i]) for i, pixels in zip(order, found, strict=True))


def test_an_unpacked_file_is_gone_with_the_last_who_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source = open_source(saved(tmp_path / "a.npz", "compressed"))
    assert np.array_equal(np.asarray(source.read(3).pixels), IMAGES[3])
    assert not list((tmp_path / "temporary").iterdir())


def test_equal_pixels_have_equal_hashes_and_others_have_others(tmp_path):
    twice = np.concatenate([IMAGES, IMAGES[5:6]])
    hashes = [open_source(saved(tmp_path / "a.npz", arr_0=twice)).read(i).content_hash for i in range(25)]
    packed = open_source(saved(tmp_path / "b.npz", "compressed", arr_0=twice[::-1]))
    assert hashes[5] == hashes[24]
    assert len(set(hashes)) == 24
    assert [packed.read(i).content_hash for i in range(25)] == hashes[::-1]


def test_arrays_of_every_shape_are_what_numpy_reads(tmp_path):
    arrays = {"mu": np.arange(5.0), "none": np.zeros((0, 3), np.float32), "number": np.array(7)}
    arrays |= {"part": np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2]}
    path = saved(tmp_path / "a.npz", **arrays)
    assert set(npz_names(path)) == {"arr_0", *arrays}
    for name, array in arrays.items():
        found = npz_array(path, name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": IMAGES.astype(np.float32)}, "arr_0 is float32 of shape"),
        ({"arr_0": IMAGES[..., 0]}, r"arr_0 is uint8 of shape \(24, 12, 16\)"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2)}, r"shape \(24, 3, 12, 16\)"),
        ({"arr_0": np.array([None, "a"], dtype=object)}, "'arr_0' cannot be read: it is object"),
        ({"arr_0": np.asfortranarray(IMAGES)}, "in Fortran order"),
        ({"arr_1": np.zeros(23)}, r"arr_1 has shape \(23,\), for 24 images"),
        ({"arr_1": np.zeros((24, 10))}, r"arr_1 has shape \(24, 10\)"),
        ({"arr_1": np.array([None] * 24, dtype=object)}, "'arr_1' cannot be read: it is object"),
    ],
)
def test_arrays_that_are_no_images_or_labels_are_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as refused:
        open_source(saved(tmp_path / "a.npz", **arrays))
    assert refused.value.fix


def test_a_file_without_images_is_refused_with_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(DataError, match="no array 'arr_0', but mu, sigma") as refused:
        open_source(tmp_path / "a.npz")
    assert "np.savez" in refused.value.fix


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, how, kept):
    path = saved(tmp_path / "a.npz", how)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.npz cannot be read") as refused:
        open_source(path)
    assert refused.value.fix


@pytest.mark.parametrize("how", SAVES)
def test_damage_anywhere_is_refused_or_shows_in_the_pixels_only(tmp_path, how):
    """A directory that points elsewhere, a header that is none, bytes that do not unpack: never another error."""
    whole = saved(tmp_path / "a.npz", how, arr_0=IMAGES[:2], arr_1=np.arange(2)).read_bytes()
    rng, refused = np.random.default_rng(0), list[DataError]()
    for start in [*range(0, 160, 8), *rng.integers(160, len(whole), 150), *range(len(whole) - 160, len(whole), 8)]:
        damaged = bytearray(whole)
        damaged[start : start + 8] = rng.bytes(len(damaged[start : start + 8]))
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            source = open_source(tmp_path / "b.npz")
            assert all(source.read(i).pixels.size == (16, 12) for i in range(len(source.names)))
        except DataError as error:
            refused.append(error)
    assert len(refused) > 20
    assert all(error.fix for error in refused)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read: .*No such file"),
        (lambda path: path.write_bytes(b"no archive" * 100), "not a zip file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no array 'arr_0', but none"),
    ],
)
def test_what_is_no_npz_file_is_refused(tmp_path, make, message):
    make(tmp_path / "a.npz")
    with pytest.raises(DataError, match=message) as refused:
        open_source(tmp_path / "a.npz")
    assert refused.value.fix


def test_a_file_that_cannot_be_decoded_is_rejected_alone(tmp_path):
    source = open_source(picture_files(tmp_path / "images", range(3)))
    (tmp_path / "images" / "0001.png").write_bytes(b"no image")
    assert np.array_equal(np.asarray(source.read(2).pixels), np.asarray(tinted(2)))
    with pytest.raises(RejectedImageError):
        source.read(1)


def test_stamps_tell_an_image_that_changed_came_or_went(tmp_path):
    folder, file = picture_files(tmp_path / "images", range(3)), saved(tmp_path / "a.npz")

    def stamps() -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(open_source(path).stamps) for path in (folder, file))

    seen = [stamps()]
    assert stamps() == seen[0]
    picture_files(folder, [3])
    seen.append(stamps())
    (folder / "0003.png").rename(folder / "0004.png")
    seen.append(stamps())
    tinted(9).save(folder / "0001.png")
    seen.append(stamps())
    assert len({folder for folder, _ in seen}) == 4
    assert len({file for _, file in seen}) == 1
    saved(file, "compressed")
    assert stamps()[1] != seen[0][1]


def test_both_are_sources(tmp_path):
    for path in (picture_files(tmp_path / "images", [1]), saved(tmp_path / "a.npz")):
        assert isinstance(open_source(path), Source)
        assert open_source(path).where == path
