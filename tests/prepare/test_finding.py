"""Finding images: what is a class, what is an image, and what is passed over."""

import os
import sys

import pytest

from anyres.errors import DataError
from anyres.grid import Size
from anyres.prepare.images import ImageFile, UnreadableImageError, decode, find_images
from tests.made import picture


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(folder):
    return [(file.source, file.label) for file in find_images(folder).files]


def test_a_folder_is_a_class_with_all_that_lies_deeper_in_it(tmp_path):
    touch(tmp_path, "dog/b.png", "dog/a.jpg", "cat/x/y/z.webp", "cat/q.tif", "a cat/1.PNG")
    assert found(tmp_path) == [
        ("a cat/1.PNG", "a cat"),
        ("cat/q.tif", "cat"),
        ("cat/x/y/z.webp", "cat"),
        ("dog/a.jpg", "dog"),
        ("dog/b.png", "dog"),
    ]


def test_a_flat_folder_is_one_class(tmp_path):
    touch(tmp_path, "b.png", "a.jpeg")
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "notes/about.txt")  # a folder without images is no class
    assert found(tmp_path) == [("a.jpeg", "unlabelled"), ("b.png", "unlabelled")]
    assert find_images(tmp_path).ignored == 1


def test_the_order_is_that_of_paths_whatever_order_the_disk_gives(tmp_path, monkeypatch):
    names = [f"{label}/{i}.png" for label in ("b", "a", "a-", "a/b") for i in (10, 9)]
    touch(tmp_path, *names)
    expected = find_images(tmp_path)
    walk = os.walk

    def backwards(*args, **kwargs):
        for root, folders, files in walk(*args, **kwargs):
            yield root, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert find_images(tmp_path) == expected
    assert len(expected.files) == len(set(expected.files)) == len(names)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path, "cat/a.png", "cat/.b.png", ".git/c.png", "cat/.thumbnails/d.png", ".e.png", "cat/._a.png")
    assert found(tmp_path) == [("cat/a.png", "cat")]
    assert find_images(tmp_path).ignored == 0


def test_what_is_no_image_by_its_extension_is_counted(tmp_path):
    touch(tmp_path, "cat/a.png", "cat/a.txt", "labels.csv", "cat/png", "cat/b.eps", "cat/c.mpg", "cat/d.h5")
    assert found(tmp_path) == [("cat/a.png", "cat")]
    assert find_images(tmp_path).ignored == 6


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.jpeg", "a.JPG", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.tiff", "a.ppm", "a.jp2"]
)
def test_usual_extensions_are_images(tmp_path, name):
    assert found(touch(tmp_path, name)) == [(name, "unlabelled")]


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (["loose.png", "cat/a.png"], "1 images beside class folders, such as loose.png"),
        (["cat/notes.txt", "more.csv"], "holds no image, but 2 other files"),
        ([".a.png"], r"holds no image\n"),
        ([], r"holds no image\n"),
        (None, "there is no folder"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, names, got):
    folder = tmp_path / "images"
    if names is not None:
        folder.mkdir()
        touch(folder, *names)
    with pytest.raises(DataError, match=got):
        find_images(folder)


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        find_images(touch(tmp_path, "a.png") / "a.png")


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "images/cat/a.png", "elsewhere/deep/b.png")
    (tmp_path / "images/cat/loop").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "images/cat/self").symlink_to(".", target_is_directory=True)
    (tmp_path / "images/dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "images/cat/c.png").symlink_to(tmp_path / "elsewhere/deep/b.png")
    assert found(tmp_path / "images") == [("cat/a.png", "cat"), ("cat/c.png", "cat"), ("dog/deep/b.png", "dog")]
    (tmp_path / "alias").symlink_to(tmp_path / "images", target_is_directory=True)
    assert found(tmp_path / "alias") == found(tmp_path / "images")


def test_a_folder_that_may_not_be_read_is_an_error_and_not_a_smaller_dataset(tmp_path, monkeypatch):
    touch(tmp_path, "cat/a.png", "dog/b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot look into .*dog: Permission denied"):
        find_images(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_text_is_listed_and_rejected(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    picture(Size(8, 8), 0).save(folder / "a\udcff.png")
    assert find_images(tmp_path).files == (ImageFile(r"caf\udce9/a\udcff.png", r"caf\udce9"),)
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode(tmp_path / find_images(tmp_path).files[0].source)
