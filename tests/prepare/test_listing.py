"""A CSV or Parquet of paths and labels: columns, paths, labels that are missing, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyres.errors import ConfigError, DataError
from anyres.prepare.images import RejectedImageError, UnreadableImageError
from anyres.prepare.listing import find_listed
from anyres.prepare.options import PrepareOptions


def find(path, **others):
    return find_listed(PrepareOptions(images=path, out=path.parent / "data", **others))


def write_csv(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def listed(source):
    return [(image.source, image.label) for image in source.images]


def test_paths_are_relative_to_the_table_and_may_be_absolute(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "deep" / "b, c.png").write_bytes(b"b")
    table = write_csv(
        tmp_path / "deep" / "list.csv", f'label,path\ncat,../a.png\n"d, og","./b, c.png"\ncat,{tmp_path}/a.png\n'
    )
    source = find(table)
    assert listed(source) == [("../a.png", "cat"), ("b, c.png", "d, og"), (f"{tmp_path}/a.png", "cat")]
    assert [image.read() for image in source.images] == [b"a", b"b", b"a"]
    assert source.labels == {"cat", "d, og"}


def test_labels_are_kept_as_they_are_written(tmp_path):
    table = write_csv(tmp_path / "list.csv", "path,label\na.png,007\nb.png,7\nc.png,NA\n", "utf-8-sig")
    assert [label for _, label in listed(find(table))] == ["007", "7", "NA"]
    pq.write_table(pa.table({"path": ["a", "b"], "label": pa.array([7, None], pa.int16())}), tmp_path / "list.parquet")
    source = find(tmp_path / "list.parquet")
    assert listed(source) == [("a", "7"), ("b", "")]
    assert source.labels == {"7"}


def test_rows_without_a_label_are_rejected_and_without_the_column_all_are_unlabelled(tmp_path):
    source = find(write_csv(tmp_path / "list.csv", "path,label\na.png,cat\nb.png,\nc.png\n"))
    assert [label for _, label in listed(source)] == ["cat", "", ""]
    for image in source.images[1:]:
        with pytest.raises(RejectedImageError, match="it has no label"):
            image.read()
    assert listed(find(write_csv(tmp_path / "list.csv", "path,kind\na.png,cat\n"))) == [("a.png", "unlabelled")]
    assert listed(find(tmp_path / "list.csv", label_column="kind")) == [("a.png", "cat")]


def test_a_file_that_is_not_there_is_found_out_when_it_is_read(tmp_path):
    image = find(write_csv(tmp_path / "list.csv", "path,label\na.png,cat\n")).images[0]
    assert image.stamp() == "missing"
    with pytest.raises(UnreadableImageError, match="No such file"):
        image.read()


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("path,label\na.png,cat\n./a.png,dog\n", r"rows 1 and 2 of .* both name a\.png"),
        ("path,label\na.png,cat\n,dog\n", r"row 2 of .* has no path"),
        ("path,label\na\0.png,cat\n", r"row 1 of .* has no path"),
        ("path,label\n", "lists no image"),
        ('path,label\n"a.png,cat\n', "cannot be read: unexpected end of data"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, got):
    with pytest.raises(DataError, match=got):
        find(write_csv(tmp_path / "list.csv", text))


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff.png,cat\n")
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    for name in ("list.csv", "list.parquet", "none.csv", "none.parquet"):
        with pytest.raises(DataError, match=f"{name} cannot be read: "):
            find(tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        write_csv(path, "image,kind\na.png,cat\n")
    else:
        pq.write_table(pa.table({"image": ["a.png"], "kind": ["cat"]}), path)
    with pytest.raises(ConfigError, match=r"no column 'path'\n.*image, kind\n.*--image-column"):
        find(path)
    with pytest.raises(ConfigError, match=r"no column 'kinds'\n.*image, kind\n.*did you mean 'kind'"):
        find(path, image_column="image", label_column="kinds")


def test_columns_of_other_types_are_refused(tmp_path):
    table = pa.table({"path": [1.5], "label": [[1]]})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match=r"column 'path' of .* holds double\n.*paths as text"):
        find(tmp_path / "list.parquet")
    pq.write_table(table.set_column(0, "path", [["a"]]), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match=r"column 'label' of .* holds list"):
        find(tmp_path / "list.parquet")
