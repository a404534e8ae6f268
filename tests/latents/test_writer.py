"""Writing a dataset: parts are kept, their leftovers are not, and what does not fit is refused."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import DataError
from anyres.files import read_json, write_json
from anyres.latents.format import LatentDataset
from anyres.latents.journal import Part, read_part, write_part
from anyres.latents.writer import DatasetWriter, Rejected, Row
from tests.made import patch_pca

CHANNELS = 3


def row(source, cells=(2, 3), *, psnr=30.0, variant="native"):
    height, width = cells
    return Row(
        source=source,
        label=source.split("/")[0],
        original=(8 * height + 1, 8 * width + 2),
        image=(8 * height, 8 * width),
        cells=cells,
        variant=variant,
        content_hash=f"hash of {source}",
        psnr=psnr,
    )


def latents(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(2, 3, (r.cells[0] * r.cells[1], CHANNELS)).astype(np.float16) for r in rows]


def write(writer, *sources, rejected=()):
    rows = [row(source) for source in sources]
    seed = len(writer.parts)
    items = [Rejected(source=source, reason="bad", stamp=f"1-{seed}") for source in rejected]
    writer.write_part(rows, latents(rows, seed), latents(rows, seed + 100), items)


def finish(writer, **settings):
    autoencoder = patch_pca(CHANNELS)
    return writer.finish(
        **settings,
        autoencoder=autoencoder.identity,
        scaling=autoencoder.scaling,
        multiple_of_cells=1,
        max_side=2048,
        variants=("native",),
    )


SIDES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(st.lists(st.lists(SIDES, max_size=4), min_size=1, max_size=4).filter(any))
@settings(max_examples=25)
def test_each_row_is_read_as_it_was_written_whatever_the_parts(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("data")
    written = []
    for number, sides in enumerate(parts):  # a writer each, as after a kill
        rows = [row(f"cat/{number}-{i}.png", cells) for i, cells in enumerate(sides)]
        plain, flipped = latents(rows, number), latents(rows, number + 50)
        with DatasetWriter(folder) as writer:
            writer.write_part(rows, plain, flipped, [])
        written += zip(rows, plain, flipped, strict=True)
    with DatasetWriter(folder) as writer:
        info = finish(writer)
    data = LatentDataset.open(folder)
    assert data.sources == tuple(r.source for r, _, _ in written)
    for index, (r, plain, flipped) in enumerate(written):
        assert tuple(data.cells[index].tolist()) == r.cells
        assert (tuple(data.original_px[index].tolist()), tuple(data.image_px[index].tolist())) == (r.original, r.image)
        assert np.array_equal(data.read_raw(index).numpy(), plain)
        assert np.array_equal(data.read_raw(index, flipped=True).numpy(), flipped)
    cells = np.concatenate([plain for _, plain, _ in written]).astype(np.float64)
    np.testing.assert_allclose(info.channel_mean, cells.mean(0), rtol=1e-9)
    np.testing.assert_allclose(info.channel_std, cells.std(0), rtol=1e-7)
    assert (info.rows, info.images, info.reconstruction_psnr) == (len(written), len(written), pytest.approx(30.0))


def test_the_spread_of_a_constant_channel_is_zero_and_not_nan(tmp_path):
    rows = [row("cat/a.png")]
    values = [np.full((6, CHANNELS), 0.1, np.float16)]
    with DatasetWriter(tmp_path) as writer:
        writer.write_part(rows, values, values, [])
        info = finish(writer)
    assert info.channel_std == pytest.approx((0.0,) * CHANNELS, abs=1e-6)


def test_quality_is_the_mean_over_what_was_measured(tmp_path):
    rows = [row("a/1.png", psnr=20.0), row("a/2.png", psnr=None), row("a/3.png", psnr=26.0)]
    with DatasetWriter(tmp_path) as writer:
        writer.write_part(rows, latents(rows), latents(rows), [])
        info = finish(writer)
    assert (info.reconstruction_psnr, info.reconstruction_images) == (pytest.approx(23.0), 2)


def test_numbers_as_labels_are_in_the_order_of_their_values(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "10/1", "9/1", "b/1", "007/1", "100/1", "a/1")
        assert finish(writer).labels == ("007", "9", "10", "100", "a", "b")


def test_given_labels_come_first_also_without_images_and_keep_their_numbers(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "c/1", "a/1", "z/1")
        assert finish(writer, labels=["c", "b", "a"]).labels == ("c", "b", "a", "z")
    assert LatentDataset.open(tmp_path).labels.tolist() == [0, 2, 3]
    with DatasetWriter(tmp_path) as writer:
        write(writer, "d/1")
        assert finish(writer, labels=["d"]).labels == ("c", "b", "a", "z", "d")


def test_a_rejected_row_may_be_of_an_image_of_which_others_were_written(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "c/1", rejected=["c/1#square-256", "c/2#native"])
        assert finish(writer).rejected == 2
    with DatasetWriter(tmp_path) as writer:
        assert writer.finished_ids() == {"c/1#native"}
        write(writer, "c/2")
        assert finish(writer).rejected == 1
        assert writer.finished_ids() == {"c/1#native", "c/2#native"}
    assert (tmp_path / "rejected.csv").read_text() == "source,reason\nc/1#square-256,bad\n"


def test_labels_are_sorted_and_new_ones_follow(tmp_path):
    for sources, labels in ((["c/1", "b/1"], "bc"), (["a/1", "d/1", "b/2"], "bcad"), ([], "bcad"), (["0/1"], "bcad0")):
        with DatasetWriter(tmp_path) as writer:
            write(writer, *sources)
            assert finish(writer).labels == tuple(labels)
    data = LatentDataset.open(tmp_path)
    assert [data.info.labels[label] for label in data.labels] == [source[0] for source in data.sources]


def test_a_journal_entry_comes_back(tmp_path):
    rows = [row("cat/é\n.png"), row("dog/b.png", (4, 1), psnr=None, variant="square-256")]
    part = Part(
        shard=3,
        rejected=(Rejected(source="dog/x.png", reason='a "reason"', stamp=""),),
        cells=10,
        channel_sum=(0.1, -1e300),
        channel_square_sum=(1 / 3, 2.0),
    )
    table = write_part(tmp_path / "part", part, rows)
    again, read = read_part(tmp_path / "part")
    assert again == part
    assert read.equals(table)
    assert read.column("source").to_pylist() == [r.source for r in rows]
    assert read.column("psnr").to_pylist() == [30.0, None]


def test_parts_without_rows_leave_no_shard_and_their_rejects_are_remembered(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, rejected=["cat/x.png"])
        write(writer, "cat/a.png", rejected=["cat/y.png"])
        write(writer, rejected=["cat/y.png"])
        finish(writer)
        assert writer.rejected_stamps() == {"cat/x.png": "1-0", "cat/y.png": "1-2"}
        assert writer.finished_sources() == {"cat/a.png"}
    assert [path.name for path in sorted(tmp_path.glob("shard-*"))] == ["shard-00001.safetensors"]
    assert (tmp_path / "rejected.csv").read_text() == "source,reason\ncat/x.png,bad\ncat/y.png,bad\n"
    with DatasetWriter(tmp_path) as writer:
        write(writer, "cat/x.png", "cat/y.png")  # they could be read at last
        assert finish(writer).rejected == 0
    assert not (tmp_path / "rejected.csv").exists()
    assert len(LatentDataset.open(tmp_path)) == 3


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, rejected=["cat/x.png", "cat/y.png"])
        with pytest.raises(DataError, match="none of the 2 images could be used: bad"):
            finish(writer)
    assert (tmp_path / "rejected.csv").read_text().count("\n") == 3


def test_what_a_killed_process_left_is_removed(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "cat/a.png")
    kept = {path.name for path in tmp_path.rglob("*")}
    for name in ("shard-00001.safetensors", ".shard-00001.safetensors.7.tmp", ".manifest.parquet.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".parts" / ".part-00001.parquet.7.tmp").write_bytes(b"half")
    with DatasetWriter(tmp_path):
        assert {path.name for path in tmp_path.rglob("*")} == kept


def test_settings_bind_from_the_first_part_on(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        writer.agree({"size": 1, "kind": "a"})
        writer.agree({"more": [2]})
        with pytest.raises(DataError, match="begun with other settings: size: 1 → 2"):
            writer.agree({"size": 2, "kind": "a"})
    with DatasetWriter(tmp_path) as writer:  # nothing was made with them
        writer.agree({"size": 2, "kind": "a"})
        write(writer, "cat/a.png")
    with DatasetWriter(tmp_path) as writer:
        with pytest.raises(DataError, match="size: 2 → 1; kind: a → b"):
            writer.agree({"size": 1, "kind": "b"})
        writer.agree({"size": 2, "kind": "a", "more": [3]})
    assert read_json(tmp_path / ".parts" / "settings.json") == {"size": 2, "kind": "a", "more": [3]}


def test_one_writer_at_a_time_also_after_an_error(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "cat/a.png")
        with pytest.raises(DataError, match="another process"):
            DatasetWriter(tmp_path)
    entry = tmp_path / ".parts" / "part-00000.parquet"
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"journal entry .* cannot be read") as kept:
        DatasetWriter(tmp_path)
    entry.write_bytes(whole)
    assert kept.tb is not None, "the writer that failed is still referred to, as in a notebook"
    with DatasetWriter(tmp_path) as writer:
        assert writer.finished_sources() == {"cat/a.png"}


def test_lost_journal_entries_are_an_error_and_their_shards_are_kept(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for source in ("cat/a.png", "cat/b.png", "cat/c.png"):
            write(writer, source)
    entries = sorted((tmp_path / ".parts").glob("part-*"))
    shards = {path: path.read_bytes() for path in tmp_path.glob("shard-*")}
    entries[1].rename(tmp_path / "away")
    with pytest.raises(DataError, match="lacks entries"):
        DatasetWriter(tmp_path)
    (tmp_path / "away").rename(entries[1])
    with DatasetWriter(tmp_path) as writer:
        finish(writer)
    for entry in reversed(entries):  # all, in the end
        entry.unlink()
        with pytest.raises(DataError, match="lacks entries"):
            DatasetWriter(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("shard-*")} == shards


@pytest.mark.parametrize(
    ("change", "got"),
    [({"format_version": 2}, "format version 2"), ({"labels": "cat"}, "labels"), ({"rows": None}, "rows")],
)
def test_a_newer_or_damaged_dataset_is_refused_before_anything_is_written(tmp_path, change, got):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "cat/a.png")
        finish(writer)
    info = read_json(tmp_path / "dataset.json")
    write_json(tmp_path / "dataset.json", info | change)
    with pytest.raises(DataError, match=got):
        DatasetWriter(tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_text()) == info | change


def test_a_lost_manifest_is_made_again(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        write(writer, "cat/a.png", "dog/b.png")
        finish(writer)
    before = pq.read_table(tmp_path / "manifest.parquet")
    os.truncate(tmp_path / "manifest.parquet", 100)
    with DatasetWriter(tmp_path) as writer:
        finish(writer)
    assert pq.read_table(tmp_path / "manifest.parquet").equals(before)
