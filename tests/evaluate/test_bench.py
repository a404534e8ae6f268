"""What an evaluation measures by: a reference is made once, found again, and refused where it does not fit."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anyres.errors import ConfigError, DataError
from anyres.evaluate.bench import Bench, save_reference, set_up
from anyres.evaluate.options import MeasuringOptions, ReferenceOptions
from anyres.evaluate.pictures import Framing
from anyres.evaluate.reference import Manifest
from anyres.grid import Size
from tests.evaluate.made_sets import SHARE, made_reference, picture_files, tinted


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return picture_files(tmp_path_factory.mktemp("real") / "images", range(50))


def bench(real: Path, cache: Path, framing: Framing | None = None, **options) -> Bench:
    chosen = {"held_out_share": SHARE} | options
    return set_up(MeasuringOptions(device="cpu", **chosen), real, framing, cache)


def test_a_reference_is_made_once_and_again_when_images_or_their_split_change(tmp_path, colours):
    real, others = (picture_files(tmp_path / name, range(50)) for name in ("real", "others"))
    first = bench(real, tmp_path / "cache")
    seen = colours.seen
    assert seen == len(first.reference.training) + 2 * len(first.reference.held_out)
    again = bench(real, tmp_path / "cache")
    assert colours.seen == seen
    assert again.reference.manifest == first.reference.manifest
    tinted(99).save(real / "0003.png")
    for change in ({}, {"held_out_share": 0.5}, {"seed": 1}, {"held_out": others, "held_out_share": None}):
        before = colours.seen
        changed = bench(real, tmp_path / "cache", **change)
        assert colours.seen > before
        assert changed.reference.manifest.inputs != first.reference.manifest.inputs
    bench(real, tmp_path / "cache")
    before = colours.seen  # by another protocol, too
    assert bench(real, tmp_path / "cache", Framing(size=Size(8, 8))).reference.training.sizes.tolist()[0] == [8, 8]
    assert colours.seen > before


def test_a_damaged_reference_is_refused_with_the_folder_to_remove_and_then_made_again(real, tmp_path, colours):
    first = bench(real, tmp_path / "cache").reference
    (tmp_path / "cache" / "held-out.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read") as refused:
        bench(real, tmp_path / "cache")
    assert f"remove {tmp_path / 'cache'}" in refused.value.fix
    shutil.rmtree(tmp_path / "cache")
    assert bench(real, tmp_path / "cache").reference.held_out.names == first.held_out.names


def test_the_share_is_what_is_asked_for_or_what_the_subject_held_out(real, tmp_path, colours):
    options = MeasuringOptions(device="cpu")
    for number, (given, share) in enumerate(((options, 0.5), (replace(options, held_out_share=0.5), 0.3))):
        found = set_up(given, real, None, tmp_path / str(number), share=share).reference
        assert set(found.held_out.names) == set(made_reference(real, share=0.5).held_out.names)


def test_a_saved_reference_brings_its_framing_and_refuses_another_and_a_split(real, tmp_path, colours):
    made_reference(real, framing=Framing(size=Size(8, 8))).save(tmp_path / "kept")
    found = bench(tmp_path / "kept", tmp_path / "cache", held_out_share=None)
    assert found.measuring.framing == Framing(size=Size(8, 8))
    assert (found.folder, colours.seen) == (tmp_path / "kept", 0)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match=r"framing\.size\.width: 8 → 12"):
        bench(tmp_path / "kept", tmp_path / "cache", Framing(size=Size(8, 12)), held_out_share=None)
    for split in ({"held_out_share": 0.3}, {"held_out_share": None, "held_out": real}):
        with pytest.raises(ConfigError, match="with a saved reference, which holds out") as refused:
            bench(tmp_path / "kept", tmp_path / "cache", **split)
        assert "leave it out" in refused.value.fix


def test_the_pictures_of_a_reference_are_found_by_name_as_they_were_measured(tmp_path, colours):
    real, others = picture_files(tmp_path / "real", range(30)), picture_files(tmp_path / "others", range(60, 75))
    framing = Framing(size=Size(8, 8))
    found = bench(real, tmp_path / "cache", framing, held_out=others, held_out_share=None)
    pictures = found.real_pictures()
    assert np.array_equal(np.asarray(pictures.training("0004.png")), np.asarray(framing.apply(tinted(4))))
    assert np.array_equal(np.asarray(pictures.held_out("0070.png")), np.asarray(framing.apply(tinted(70))))
    assert pictures.training("0070.png") is None
    others.rename(tmp_path / "moved")
    assert found.real_pictures().held_out("0070.png") is None


def reference_of(images: Path, out: Path, **options) -> Manifest:
    return save_reference(
        ReferenceOptions(images=images, out=out, device="cpu", **({"held_out_share": SHARE} | options))
    )


def test_the_command_leaves_a_reference_alone_that_is_there_already(real, tmp_path, colours):
    first = reference_of(real, tmp_path / "out", size="12x8", upscale=True)
    assert first.protocol.framing == Framing(size=Size(8, 12), upscale=True)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    seen = colours.seen
    assert reference_of(real, tmp_path / "out", size="12x8", upscale=True) == first
    assert colours.seen == seen
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps


def test_the_command_refuses_a_folder_that_holds_something_else(real, tmp_path, colours):
    reference_of(real, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    others = picture_files(tmp_path / "others", range(30, 80))
    for images, options, message in (
        (others, {}, "a reference of other images"),
        (real, {"held_out_share": 0.5}, "or of another split of them"),
        (real, {"max_side": 8}, r"framing\.max_side: None → 8"),
    ):
        with pytest.raises(DataError, match=message):
            reference_of(images, tmp_path / "out", **options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        reference_of(real, tmp_path / "full")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
