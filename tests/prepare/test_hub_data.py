"""Data sets of Hugging Face: columns, labels, splits, what is pinned, and what breaks on the way."""

from pathlib import Path

import datasets
import pytest

from anyres import hub
from anyres.errors import ConfigError, DataError
from anyres.grid import Size
from anyres.prepare.encode import prepare
from anyres.prepare.hub_data import find_hub_data
from anyres.prepare.images import RejectedImageError, UnreadableImageError
from anyres.prepare.options import PrepareOptions
from tests.made import patch_pca, picture, picture_folder
from tests.prepare.made_sources import hub_rows, options

both = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def find(folder, **others):
    return find_hub_data(PrepareOptions(images=Path(f"hf:{folder}"), out=Path("data"), **others))


def stored(folder, features, **columns):
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(folder / "train.parquet")
    return folder


def labels(source):
    return [image.label for image in source.images]


@both
def test_labels_of_any_kind(tmp_path, streaming):
    features = {
        "image": datasets.Value("binary"),
        "label": datasets.ClassLabel(names=["dog", "cat"]),
        "number": datasets.Value("int8"),
        "text": datasets.Value("string"),
        "list": [datasets.Value("int8")],
    }
    columns = {"image": [b"1", b"2", b"3"], "label": [1, 0, -1], "number": [7, 0, None], "text": ["a", "", "b"]}
    folder = stored(tmp_path, features, **columns, list=[[1]] * 3)
    source = find(folder, streaming=streaming)
    assert labels(source) == ["cat", "dog", ""]
    assert source.labels == {"cat", "dog"}
    assert [image.source for image in source.images] == [f"train/{number:08d}" for number in range(3)]
    with pytest.raises(RejectedImageError, match="it has no label"):
        list(source.images)[2].read()
    assert labels(find(folder, label_column="number", streaming=streaming)) == ["7", "0", ""]
    assert labels(find(folder, label_column="text", streaming=streaming)) == ["a", "", "b"]
    assert find(folder, label_column="text", streaming=streaming).labels == (None if streaming else {"a", "b"})
    with pytest.raises(ConfigError, match="column 'list' holds list"):
        labels(find(folder, label_column="list", streaming=streaming))
    with pytest.raises(ConfigError, match=r"no column 'kind'\n.*image, label, number"):
        find(folder, label_column="kind", streaming=streaming)
    with pytest.raises(ConfigError, match=r"no column 'picture'\n"):
        find(folder, image_column="picture", streaming=streaming)


@both
def test_images_of_any_kind(tmp_path, streaming):
    (tmp_path / "one.png").write_bytes(b"one")
    features = {
        "image": datasets.Image(),
        "raw": datasets.Value("binary"),
        "url": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "text": datasets.Value("string"),
    }
    columns = {
        "image": [{"bytes": b"two", "path": None}, {"bytes": None, "path": str(tmp_path / "one.png")}, None],
        "raw": [b"a", b"", None],
        "url": [{"bytes": None, "path": f"file://{tmp_path}/{name}.png"} for name in ("one", "none")] + [None],
        "text": ["a", "b", "c"],
    }
    (tmp_path / "data").mkdir()
    folder = stored(tmp_path / "data", features, **columns)

    def images(**others):
        return list(find(folder, streaming=streaming, **others).images)

    assert [image.label for image in images()] == ["unlabelled"] * 3
    assert [image.read() for image in images()[:2]] == [b"two", b"one"]
    assert [image.read() for image in images(image_column="raw")[:2]] == [b"a", b""]
    for column in ("image", "raw", "url"):
        with pytest.raises(RejectedImageError, match="there is no image in this row"):
            images(image_column=column)[2].read()
        assert images(image_column=column)[2].stamp() == "there is no image in this row"
    assert images(image_column="url")[0].read() == b"one"
    with pytest.raises(UnreadableImageError, match="cannot be read: "):
        images(image_column="url")[1].read()
    with pytest.raises(ConfigError, match="column 'text' holds str"):
        images(image_column="text")[0].read()
    stamps = {image.stamp() for image in (*images()[:2], *images(image_column="raw")[:2])}
    assert len(stamps) == 4


def test_a_folder_of_pictures_is_a_data_set_too(tmp_path):
    picture_folder(tmp_path / "images" / "train")
    source = find(tmp_path / "images")
    assert source.count == 24
    assert source.labels == {"cat", "dog"}
    name = Path(source.images[0].read() and next((tmp_path / "images" / "train" / "cat").glob("*0.png")))
    assert source.images[0].read() == name.read_bytes()


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"split": "validation"}, 'Unknown split "validation"'),
        ({"subset": "other"}, "other"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, changes, got):
    folder = stored(tmp_path, {"image": datasets.Value("binary")}, image=[b"1"])
    with pytest.raises(DataError, match=f"cannot be loaded: .*{got}"):
        find(folder, **changes)


def test_saved_data_sets_and_their_splits(tmp_path):
    rows = hub_rows(picture_folder(tmp_path / "images"))
    rows.save_to_disk(str(tmp_path / "one"))
    assert find(tmp_path / "one").count == 24
    with pytest.raises(DataError, match="it has no splits, and test was asked for"):
        find(tmp_path / "one", split="test")
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "several"))
    assert [image.source for image in find(tmp_path / "several", split="test", streaming=True).images][-1] == (
        "test/00000023"
    )
    with pytest.raises(DataError, match=r"it has no split train, but test"):
        find(tmp_path / "several")


@both
def test_rows_are_read_in_the_files_order_and_an_empty_split_is_an_error(tmp_path, streaming):
    folder = stored(tmp_path, {"image": datasets.Value("binary")}, image=[b"1", b"2"])
    assert [image.read() for image in find(folder, streaming=streaming).images] == [b"1", b"2"]
    if not streaming:
        assert [image.source for image in find(folder, split="train[1:]").images] == ["train[1:]/00000000"]
    stored(tmp_path, {"image": datasets.Value("binary")}, image=[])
    with pytest.raises(DataError, match=r"holds no image|corresponds to no data"):
        list(find(folder, streaming=streaming).images)


def test_a_stream_that_breaks_off_keeps_what_was_done(tmp_path, refused, monkeypatch):
    rows = hub_rows(picture_folder(tmp_path / "images"))
    rows.to_parquet(tmp_path / "source" / "train.parquet")
    source = {"images": Path(f"hf:{tmp_path}/source"), "streaming": True}
    iterate = datasets.IterableDataset.__iter__

    def broken(self):
        for number, row in enumerate(iterate(self)):
            if number == 13:
                raise ConnectionError("the network is gone\nand more")
            yield row

    given = {"autoencoder": str(autoencoder(tmp_path))}
    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "__iter__", broken)
        with pytest.raises(DataError, match=r"cannot be read after row 13: the network is gone\n"):
            prepare(options(source, tmp_path / "data", **given))
    finished = len(list((tmp_path / "data").glob("shard-*")))
    assert finished >= 1
    report = prepare(options(source, tmp_path / "data", **given))
    assert report.info.images == 24
    assert report.added < 24


def autoencoder(folder):
    patch_pca().save(folder / "autoencoder")
    return folder / "autoencoder"


def test_a_stream_without_class_labels_cannot_be_reshaped_by_label(tmp_path, refused):
    features = {"image": datasets.Image(), "label": datasets.Value("string")}
    picture(Size(32, 32), 0).save(tmp_path / "a.png")
    folder = tmp_path / "data"
    folder.mkdir()
    stored(folder, features, image=[{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}], label=["cat"])
    message = refused(f"hf:{folder}", "--streaming", "--out", tmp_path / "out", "--crop", "cat")
    assert "leave --streaming out" in message


def test_another_data_set_or_split_is_refused_as_rows_are_numbers(tmp_path, refused):
    for name in ("one", "two"):
        rows = hub_rows(picture_folder(tmp_path / f"{name}-images"))
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / name))
    prepare(options({"images": Path(f"hf:{tmp_path}/one")}, tmp_path / "data"))
    (tmp_path / "moved").mkdir()
    (tmp_path / "one").rename(tmp_path / "moved" / "one")
    assert prepare(options({"images": Path(f"hf:{tmp_path}/moved/one")}, tmp_path / "data")).added == 0
    message = refused(f"hf:{tmp_path}/two", "--out", tmp_path / "data")
    assert "images: hf:one train → hf:two train" in message
    message = refused(f"hf:{tmp_path}/moved/one", "--split", "test", "--out", tmp_path / "data")
    assert "images: hf:one train → hf:one test" in message


def test_a_prefix_alone_is_no_name():
    with pytest.raises(ConfigError, match="hf: without a name"):
        find("")


def test_a_repository_is_pinned_to_a_commit(tmp_path, monkeypatch):
    rows = hub_rows(picture_folder(tmp_path / "images"))
    asked = []

    def load(path, **others):
        asked.append((path, others["revision"]))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "dataset_commit", lambda name, revision: f"{len(name)}{revision}" + 38 * "0")
    assert find("owner/name").identity == "hf:owner/name@10None" + 38 * "0" + " train"
    assert find("owner/name@main").identity == "hf:owner/name@10main" + 38 * "0" + " train"
    assert find(f"owner/name@{40 * 'a'}").identity == f"hf:owner/name@{40 * 'a'} train"
    assert asked == [("owner/name", f"10{name}" + 38 * "0") for name in (None, "main")] + [("owner/name", 40 * "a")]
