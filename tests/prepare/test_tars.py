"""WebDataset tars: what is a sample, its image and its label; patterns; damage."""

import json
import os
import tarfile

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import ConfigError, DataError
from anyres.prepare.images import RejectedImageError, UnreadableImageError
from anyres.prepare.options import PrepareOptions
from anyres.prepare.tars import find_tars
from tests.prepare.made_sources import write_tar


def find(images, **others):
    return find_tars(PrepareOptions(images=images, out=images / "data", **others))


def listed(source):
    return [(image.source, image.label) for image in source.images]


def found(tmp_path, members, **others):
    return find(write_tar(tmp_path / "a.tar", members), **others)


NAMES = st.text(st.sampled_from("ab1_-é"), min_size=1, max_size=3)
FILES = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "x/", "x.y/", "./"]), NAMES, st.sampled_from(["jpg", "PNG", "cls", "seg.png", "txt"])
    ),
    st.binary(min_size=1, max_size=8),
    min_size=1,
)


@given(files=FILES)
@settings(max_examples=40)
def test_samples_are_those_of_webdataset(tmp_path_factory, files):
    members = {f"{folder}{name}.{extension}": data for (folder, name, extension), data in sorted(files.items())}
    tar = write_tar(tmp_path_factory.mktemp("tars") / "a.tar", members)
    wanted = {}
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
        image = sample.get("jpg", sample.get("png"))
        if image is not None:
            wanted[sample["__key__"]] = (image, sample.get("cls", b"").decode("utf-8", "replace").strip())
    if any("jpg" in sample and "png" in sample for sample in webdataset.WebDataset(str(tar), shardshuffle=False)):
        with pytest.raises(DataError, match="has several images"):
            find(tar)
        return
    if not wanted:
        with pytest.raises(DataError, match="holds no image"):
            find(tar)
        return
    source = find(tar)
    unlabelled = not any(name.endswith(".cls") and name.rsplit(".", 1)[0] in wanted for name in members)
    images = {image.source.removeprefix("a.tar/").rsplit(".", 1)[0]: image for image in source.images}
    assert images.keys() == wanted.keys()
    for key, (data, label) in wanted.items():
        assert images[key].label == ("unlabelled" if unlabelled else label)
        if images[key].label:
            assert images[key].read() == data
        else:
            with pytest.raises(RejectedImageError, match="it has no label"):
                images[key].read()


def test_labels_of_other_files_and_of_fields(tmp_path):
    members = {
        "1.jpg": b"x",
        "1.json": json.dumps({"label": 7, "kind": "cat"}).encode(),
        "1.txt": b"a cat\n",
        "2.jpg": b"x",
        "2.json": b"not json",
        "3.jpg": b"x",
        "3.json": json.dumps({"label": [1], "kind": "dog"}).encode(),
        "3.txt": b" \n",
    }
    tar = write_tar(tmp_path / "a.tar", members)
    assert [label for _, label in listed(find(tar))] == ["unlabelled"] * 3
    assert find(tar).ignored == 5
    assert [label for _, label in listed(find(tar, label_column="json.kind"))] == ["cat", "", "dog"]
    assert [label for _, label in listed(find(tar, label_column="json.label"))] == ["7", "", ""]
    assert [label for _, label in listed(find(tar, label_column="txt"))] == ["a cat", "", ""]
    assert find(tar, label_column="txt").labels == {"a cat"}
    for missing in ("json.no", "cls"):
        with pytest.raises(ConfigError, match=f"no sample of .* has a label in {missing}"):
            find(tar, label_column=missing)


def test_the_image_may_be_named_by_its_extension(tmp_path):
    members = {"1.jpg": b"plain", "1.mask.png": b"mask", "1.png": b"other", "2.jpg": b"plain"}
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"several images: 1\.jpg, 1\.png"):
        find(tar)
    assert [image.read() for image in find(tar, image_column="jpg").images] == [b"plain", b"plain"]
    assert [image.read() for image in find(tar, image_column="mask.png").images] == [b"mask"]
    with pytest.raises(DataError, match="holds no image"):
        find(tar, image_column="webp")


def test_a_name_twice_is_refused(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"x/1.jpg": b"x"})
    with tarfile.open(tar, "a") as more:
        more.addfile(tarfile.TarInfo("x/1.jpg"))
    with pytest.raises(DataError, match=r"holds x/1\.jpg twice"):
        find(tar)


def test_patterns_and_several_paths(tmp_path):
    for number in (10, 9, 2):
        write_tar(tmp_path / f"t-{number:02d}.tar", {f"{number}.jpg": b"x"})
    write_tar(tmp_path / "odd[1].tar", {"1.jpg": b"x"})
    names = [f"t-{number:02d}.tar/{number}.jpg" for number in (2, 9, 10)]
    assert [name for name, _ in listed(find(tmp_path / "t-*.tar"))] == names
    assert [name for name, _ in listed(find(tmp_path / "t-{09..10}.tar"))] == names[1:]
    assert [name for name, _ in listed(find(tmp_path / "{t-02,t-1?}.tar"))] == [names[0], names[2]]
    both = find(tmp_path / "t-10.tar", more_tars=(tmp_path / "t-02.tar",))
    assert [name for name, _ in listed(both)] == [names[2], names[0]]
    assert [name for name, _ in listed(find(tmp_path / "odd[1].tar"))] == ["odd[1].tar/1.jpg"]
    with pytest.raises(DataError, match=r"no tar matches .*u-\*"):
        find(tmp_path / "u-*.tar")
    with pytest.raises(DataError, match=r"t-11\.tar cannot be read: No such file"):
        find(tmp_path / "t-{10..11}.tar")
    with pytest.raises(ConfigError, match="Unbalanced"):
        find(tmp_path / "t-{10..11.tar")
    write_tar(tmp_path / "sub" / "t-02.tar", {"1.jpg": b"x"})
    with pytest.raises(DataError, match=r"several tars are named t-02\.tar"):
        find(tmp_path / "t-02.tar", more_tars=(tmp_path / "sub" / "t-02.tar",))


@pytest.mark.parametrize("left", [0.95, 0.5, 0.02])
def test_a_tar_that_was_cut_off_is_refused(tmp_path, left):
    whole = write_tar(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 20_000 for number in range(3)})
    os.truncate(whole, int(whole.stat().st_size * left) if left < 0.9 else 2 * (512 + 20_480) + 5_000)
    with pytest.raises(DataError, match=r"a\.tar cannot be read: "):
        find(whole)


def test_what_is_no_tar_is_refused(tmp_path):
    for content in (b"", b"no tar" * 1000):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read: |holds no image"):
            find(tmp_path / "a.tar")


def test_a_tar_that_changes_while_it_is_read(tmp_path):
    source = found(tmp_path, {"1.jpg": b"x" * 2000})
    before = source.images[0].stamp()
    os.truncate(tmp_path / "a.tar", 1000)
    assert source.images[0].stamp() != before
    with pytest.raises(UnreadableImageError, match="ends before it"):
        source.images[0].read()
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UnreadableImageError, match="No such file"):
        source.images[0].read()
