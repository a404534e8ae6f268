"""Shards: what goes in comes out, by our reader and by safetensors' own, and damage is found."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from anyres.errors import DataError
from anyres.latents.shards import map_shard, write_shard


def arrays(seed, lengths, channels):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, channels)).astype(np.float16) for length in lengths]


@given(st.integers(1, 9), st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=30)
def test_what_was_written_is_read_and_by_safetensors_too(tmp_path_factory, channels, lengths):
    path = tmp_path_factory.mktemp("shard") / "one.safetensors"
    plain, flipped = arrays(0, lengths, channels), arrays(1, lengths, channels)
    write_shard(path, plain, flipped)
    shard, theirs = map_shard(path, channels), load_file(path)
    for found in (shard.plain, theirs["latents"]):
        assert np.array_equal(found.numpy(), np.concatenate(plain))
    for found in (shard.flipped, theirs["latents_flipped"]):
        assert np.array_equal(found.numpy(), np.concatenate(flipped))
    assert set(theirs) == {"latents", "latents_flipped"}


def test_strided_arrays_and_special_values_are_written_as_they_are(tmp_path):
    values = np.array([[0.0, -0.0, 65504], [np.inf, -np.inf, 6e-8]], np.float16)
    write_shard(tmp_path / "one", [values.T], [values.T[::-1]])
    shard = map_shard(tmp_path / "one", 2)
    assert shard.plain.numpy().tobytes() == np.ascontiguousarray(values.T).tobytes()
    assert shard.flipped.numpy().tobytes() == np.ascontiguousarray(values.T[::-1]).tobytes()


def test_shards_of_safetensors_own_are_read(tmp_path):
    state = {name: torch.randn(7, 3).half() for name in ("latents", "latents_flipped")}
    save_file(state, tmp_path / "one")
    assert torch.equal(map_shard(tmp_path / "one", 3).plain, state["latents"])
    assert torch.equal(map_shard(tmp_path / "one", 3).flipped, state["latents_flipped"])


def test_writing_to_a_map_does_not_reach_the_file(tmp_path):
    write_shard(tmp_path / "one", arrays(0, [4], 2), arrays(1, [4], 2))
    before = (tmp_path / "one").read_bytes()
    shard = map_shard(tmp_path / "one", 2)
    shard.plain.zero_()
    del shard
    assert (tmp_path / "one").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_a_map_keeps_no_file_open(tmp_path):
    write_shard(tmp_path / "one", arrays(0, [4], 2), arrays(1, [4], 2))
    before = len(list(Path("/proc/self/fd").iterdir()))
    maps = [map_shard(tmp_path / "one", 2) for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert all(torch.equal(shard.plain, maps[0].plain) for shard in maps)


@given(st.data())
@settings(max_examples=60)
def test_a_truncated_shard_is_refused_wherever_it_ends(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("shard") / "one"
    write_shard(path, arrays(0, [3, 5], 4), arrays(1, [3, 5], 4))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match="cannot be read"):
        map_shard(path, 4)


def with_header(path, header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(96))
    return path


ENTRY = {"dtype": "F16", "shape": [8, 3], "data_offsets": [0, 48]}
OTHER = ENTRY | {"data_offsets": [48, 96]}


def test_a_header_made_by_hand_is_read(tmp_path):
    shard = map_shard(with_header(tmp_path / "one", {"latents": ENTRY, "latents_flipped": OTHER}), 3)
    assert shard.plain.shape == shard.flipped.shape == (8, 3)


@pytest.mark.parametrize(
    "header",
    [
        {"latents": ENTRY},
        {"latents": ENTRY, "latents_flipped": OTHER | {"dtype": "F32"}},
        {"latents": ENTRY, "latents_flipped": OTHER | {"shape": [12, 2]}},
        {"latents": ENTRY, "latents_flipped": OTHER | {"shape": [24]}},
        {"latents": ENTRY, "latents_flipped": OTHER | {"shape": [9, 3]}},
        {"latents": ENTRY, "latents_flipped": OTHER | {"data_offsets": [56, 104]}},
        {"latents": ENTRY, "latents_flipped": OTHER | {"data_offsets": [-48, 0]}},
        {"latents": ENTRY, "latents_flipped": None},
        ["latents"],
        b"\xff\xfe{",
        b"",
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header):
    with pytest.raises(DataError, match=r"shard .*one cannot be read"):
        map_shard(with_header(tmp_path / "one", header), 3)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"shard .*none is missing"):
        map_shard(tmp_path / "none", 3)
    (tmp_path / "zeros").write_bytes(bytes(100))
    (tmp_path / "huge").write_bytes(b"\xff" * 100)
    for path in (tmp_path / "zeros", tmp_path / "huge", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            map_shard(path, 3)


def test_a_shard_of_other_channels_is_refused(tmp_path):
    write_shard(tmp_path / "one", arrays(0, [6], 4), arrays(1, [6], 4))
    with pytest.raises(DataError, match=r"it holds F16 of \[6, 4\], not float16 of \(rows, 3\)"):
        map_shard(tmp_path / "one", 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_shard(tmp_path):
    path = tmp_path / "one"
    write_shard(path, arrays(0, [6], 4), arrays(1, [6], 4))
    before = path.read_bytes()
    (tmp_path / f".one.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"the disk is full: cannot write .*one"):
        write_shard(path, arrays(2, [6], 4), arrays(3, [6], 4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["one"]
