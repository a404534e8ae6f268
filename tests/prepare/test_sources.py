"""Every kind of source: the same images give the same dataset, are listed and refused alike, and restart alike."""

import csv
import os
import sys

import pyarrow.parquet as pq
import pytest

from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from tests.prepare.killing import contents, kill, no_fsync, run
from tests.prepare.made_sources import SOURCES, odd_images, options

every = pytest.mark.parametrize("kind", list(SOURCES))


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(os, "fsync", no_fsync)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return odd_images(tmp_path_factory.mktemp("sources") / "images")


@pytest.fixture(scope="module")
def from_folder(images):
    prepare(options({"images": images}, images.parent / "data"))
    return images.parent / "data"


def rejected(folder):
    with (folder / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@every
def test_the_same_images_give_the_same_dataset_up_to_their_names(images, from_folder, tmp_path, kind):
    report = prepare(options(SOURCES[kind](images, tmp_path / "source"), tmp_path / "data"))
    wanted, found = LatentDataset.open(from_folder), LatentDataset.open(tmp_path / "data")
    assert found.info == wanted.info
    assert (report.added, report.info.rejected, report.info.labels) == (11, 2, ("cat", "dog"))
    shards = [path.name for path in sorted(from_folder.glob("shard-*"))]
    assert len(shards) == 3
    for shard in shards:
        assert (tmp_path / "data" / shard).read_bytes() == (from_folder / shard).read_bytes()
    tables = [pq.read_table(folder / "manifest.parquet") for folder in (from_folder, tmp_path / "data")]
    assert tables[0].drop(["id", "source"]).equals(tables[1].drop(["id", "source"]))
    assert len(set(found.sources)) == 11
    assert [row["reason"] for row in rejected(tmp_path / "data")] == [row["reason"] for row in rejected(from_folder)]
    assert found.held_out(0.5).tolist() == wanted.held_out(0.5).tolist()


@every
def test_a_second_run_does_nothing_and_reads_no_image(images, tmp_path, kind, monkeypatch):
    source = SOURCES[kind](images, tmp_path / "source")
    prepare(options(source, tmp_path / "data"))
    before = contents(tmp_path / "data")

    def refuse(_data):
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("anyres.prepare.variants.decode_bytes", refuse)
    assert prepare(options(source, tmp_path / "data")).added == 0
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("kind", ["tars", "hub_stream"])
def test_killed_again_and_again(images, tmp_path, kind):
    source = SOURCES[kind](images, tmp_path / "source")
    prepare(options(source, tmp_path / "undisturbed", workers=1))
    kills = 0
    while kill(out=tmp_path / "data", change=12 + kills, **source):  # each time a little later
        kills += 1
    assert kills > 4
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_added_tars_follow(images, tmp_path):
    source = SOURCES["tars"](images, tmp_path / "source")
    last = max((tmp_path / "source").glob("*.tar"))
    last.rename(tmp_path / "later.tar")
    assert run(out=tmp_path / "data", **source).added == 9
    (tmp_path / "later.tar").rename(last)
    report = run(out=tmp_path / "data", **source)
    assert (report.added, report.info.images) == (2, 11)


@every
def test_versions_are_made_of_a_sources_labels(images, tmp_path, kind):
    source = SOURCES[kind](images, tmp_path / "source")
    report = prepare(options(source, tmp_path / "data", rescale=("cat",), reshaped=2))
    assert report.variant_rows == {"native": 11, "reshaped": 12}


@every
def test_a_label_that_is_not_there_is_refused(images, tmp_path, refused, kind):
    message = refused(
        *arguments(SOURCES[kind](images, tmp_path / "source")), "--out", tmp_path / "data", "--crop", "cow"
    )
    assert "no such label" in message
    assert "one of cat, dog" in message


@every
def test_a_source_without_a_usable_image_is_an_error(tmp_path, refused, kind):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / "cat" / name).write_bytes(b"")
    source = SOURCES[kind](tmp_path / "images", tmp_path / "source")
    message = refused(*arguments(source), "--out", tmp_path / "data")
    assert "none of 2 images" in message
    assert "can be read" in message


def arguments(source):
    """As they are written on the command line."""
    written = [source["images"]]
    for name in set(source) - {"images"}:
        written += [f"--{name.replace('_', '-')}"] + ([] if source[name] is True else [source[name]])
    return written


@pytest.mark.parametrize(
    ("kind", "option", "wanted"),
    [
        ("folder", ["--image-column", "a"], "a .csv or .parquet of paths or WebDataset tars or a data set"),
        ("folder", ["--streaming"], "a data set of Hugging Face (hf:NAME)"),
        ("tars", ["--split", "a"], "a data set of Hugging Face (hf:NAME)"),
        ("csv_table", ["--subset", "a"], "a data set of Hugging Face (hf:NAME)"),
        ("csv_table", [], "wanted: WebDataset tars"),
    ],
)
def test_an_option_of_another_kind_of_source_is_refused(images, tmp_path, refused, kind, option, wanted):
    source = {"images": images} if kind == "folder" else SOURCES[kind](images, tmp_path / "source")
    more = [] if option else ["further.tar"]
    message = refused(source["images"], *more, "--out", tmp_path / "data", *option)
    assert f"got {option[0] if option else 'several paths'} and {source['images']}, which is " in message
    assert wanted in message


@pytest.mark.parametrize("name", ["nothing", "nothing.csv", "nothing.tar", "nothing.parquet", "nothing.zip"])
def test_what_is_not_there_is_said(tmp_path, refused, name):
    message = refused(tmp_path / name, "--out", tmp_path / "data")
    assert str(tmp_path / name) in message
    assert "No such file" in message or "there is no folder" in message


def test_a_file_of_another_kind_is_said(tmp_path, refused):
    (tmp_path / "images.zip").write_bytes(b"x")
    message = refused(tmp_path / "images.zip", "--out", tmp_path / "data")
    assert "images.zip is a file of a kind that is not read" in message
    assert "wanted: a folder, a .csv or .parquet of paths, WebDataset tars, a data set of Hugging Face" in message


@pytest.mark.parametrize(
    ("source", "package"), [("hf:any/thing", "datasets"), ("a-{000..002}.tar", "braceexpand")], ids=["hf", "braces"]
)
def test_a_missing_package_is_named_with_its_command(tmp_path, refused, monkeypatch, source, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(source, "--out", tmp_path / "data")
    assert f"{package} is not installed" in message
    assert "pip install 'anyres[hub-data]'" in message
