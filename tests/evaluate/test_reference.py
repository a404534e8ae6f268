"""References: which images are held out, what is kept of them on disk, and which are refused."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyres.config import from_dict, to_dict
from anyres.errors import ConfigError, DataError
from anyres.evaluate import figures, sets
from anyres.evaluate.controls import blurred
from anyres.evaluate.figures import estimates
from anyres.evaluate.measuring import Protocol
from anyres.evaluate.moments import Moments, frechet_distance
from anyres.evaluate.pictures import Framing
from anyres.evaluate.reference import MANIFEST, Reference, read_manifest
from anyres.evaluate.sources import open_source
from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from tests.evaluate.conftest import Colours
from tests.evaluate.made_sets import SHARE, feature_set, made_reference, normal, picture_files, tinted
from tests.made import picture_folder


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return picture_files(tmp_path_factory.mktemp("real") / "images", range(50))


def test_every_image_is_on_one_side_and_about_the_share_is_held_out(real):
    found = made_reference(real)
    assert set(found.training.names) | set(found.held_out.names) == set(open_source(real).names)
    assert not set(found.training.names) & set(found.held_out.names)
    assert 12 <= len(found.held_out) <= 28  # 20 of 50; 2.5 times the error
    assert (found.manifest.training_images, found.manifest.held_out_images) == (
        len(found.training),
        len(found.held_out),
    )
    assert str(found.manifest.held_out_images) in found.manifest.held_out


def test_an_image_stays_on_its_side_whatever_the_others_and_the_names(real, tmp_path):
    apart = {int(Path(name).stem) for name in made_reference(real).held_out.names}
    more = picture_files(tmp_path / "more", range(100, 120))
    for number in range(50):  # in the opposite order, among others
        tinted(number).save(more / f"x{99 - number:04d}.png")
    held_out = set(made_reference(more).held_out.names)
    assert {i for i in range(50) if f"x{99 - i:04d}.png" in held_out} == apart


def test_the_held_out_images_are_those_that_a_training_never_saw(tmp_path):
    images = picture_folder(tmp_path / "images", each=20)
    prepare(PrepareOptions(images=images, out=tmp_path / "data", workers=2, device="cpu"))
    dataset = LatentDataset.open(tmp_path / "data")
    apart = {source for source, held in zip(dataset.sources, dataset.held_out(SHARE), strict=True) if held}
    assert set(made_reference(images).held_out.names) == apart


def test_other_images_can_be_held_out(real, tmp_path):
    others = picture_files(tmp_path / "others", range(100, 115))
    found = made_reference(real, held_out=others)
    assert (len(found.training), len(found.held_out)) == (50, 15)
    assert found.held_out.names == tuple(f"{i:04d}.png" for i in range(100, 115))
    assert found.manifest.held_out_source == str(others.resolve())


@pytest.mark.parametrize("framing", [Framing(), Framing(size=Size(32, 48))])
def test_the_blurred_images_are_the_held_out_ones_blurred_in_their_order(tmp_path, framing):
    source = open_source(picture_files(tmp_path / "large", range(40), Size(48, 64)))
    found = made_reference(source.where, framing=framing)
    assert found.blurred.names == found.held_out.names
    numbers = [source.names.index(name) for name in found.held_out.names]
    for set_, change in ((found.held_out, lambda pixels: pixels), (found.blurred, blurred)):
        framed = [framing.apply(source.read(number).pixels) for number in numbers]
        pixels = np.stack([change(np.asarray(image)) for image in framed if image])
        expected = Colours()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).pooled.numpy()
        np.testing.assert_allclose(set_.features, expected, atol=1e-5)
    detail = slice(6, 9)
    assert (found.blurred.features[:, detail] < found.held_out.features[:, detail]).all()


def test_a_reference_is_read_as_it_was_written(real, tmp_path):
    written = made_reference(real, framing=Framing(size=Size(8, 12), upscale=True))
    written.save(tmp_path / "kept")
    read = Reference.load(tmp_path / "kept")
    assert read.manifest == written.manifest == read_manifest(tmp_path / "kept")
    for name in ("training", "held_out", "blurred"):
        one, other = getattr(read, name), getattr(written, name)
        assert one.names == other.names
        np.testing.assert_array_equal(one.features, other.features)


def _changed(**changes: Any):
    def damage(path: Path) -> None:
        data = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in data.items() if value != "gone"}))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_text("{"), "not valid JSON"),
        (lambda path: path.write_text("[]"), "format version None"),
        (_changed(format_version=0), "format version 0"),
        (_changed(colour="red"), "unknown field 'colour'"),
        (_changed(training_images="many"), "training_images is 'many'"),
        (_changed(protocol="gone"), "lacks the field 'protocol'"),
    ],
)
def test_a_damaged_manifest_or_an_old_one_is_refused(real, tmp_path, damage, message):
    made_reference(real).save(tmp_path)
    damage(tmp_path / MANIFEST)
    with pytest.raises(DataError, match=message) as refused:
        Reference.load(tmp_path)
    assert refused.value.fix


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": "inception"}, r"network: colours \(0\) → inception"),
        ({"network_input": "stretched"}, "network_input: as they are → stretched"),
        ({"framing": Framing(size=Size(8, 12))}, "framing.size: None → 12x8"),
        ({"framing": Framing(max_side=64, multiple=16)}, "framing.max_side: None → 64; framing.multiple: 1 → 16"),
        ({"network": "a", "framing": Framing(upscale=True)}, "network: .* → a; framing.upscale: False → True"),
    ],
)
def test_another_protocol_is_refused_with_each_difference(real, changes, named):
    manifest = made_reference(real).manifest
    protocol = Protocol(network="colours (0)", network_input="as they are", framing=Framing())
    manifest.check(protocol, real)
    with pytest.raises(DataError, match=named) as refused:
        manifest.check(replace(protocol, **changes), real)
    assert "anyres reference" in refused.value.fix


@pytest.mark.parametrize(
    ("numbers", "options", "message", "fix"),
    [
        (range(8), {}, "for a reference from", "use more images"),
        (range(30), {"share": 0.01}, "for the controls, held out of", "--held-out-share"),
        (range(30), {"framing": Framing(size=Size(90, 90))}, r"got 0 images .*30 are smaller", "--upscale"),
    ],
)
def test_too_few_images_are_refused_with_how_many_are_needed(tmp_path, numbers, options, message, fix):
    with pytest.raises(DataError, match=message) as refused:
        made_reference(picture_files(tmp_path / "few", numbers), **options)
    assert refused.value.wanted == "at least 10"
    assert fix in refused.value.fix


STATISTICS = {"mu": np.arange(9.0), "sigma": np.eye(9), "mu_s": np.arange(3.0), "sigma_s": 2 * np.eye(3)}


@pytest.mark.parametrize("kept", [True, False])
def test_the_statistics_that_come_with_a_file_are_those_of_the_frechet_distances(tmp_path, monkeypatch, kept):
    for module in (figures, sets):
        monkeypatch.setattr(module, "FRECHET_IMAGES", 20)
    np.savez(tmp_path / "adm.npz", np.stack([np.asarray(tinted(i)) for i in range(60)]), **STATISTICS)
    reference = made_reference(tmp_path / "adm.npz")
    assert reference.manifest.statistics
    if kept:
        reference.save(tmp_path / "kept")
        reference = Reference.load(tmp_path / "kept")
    images = feature_set(normal(40, 9), spatial=normal(40, 3), sizes=np.array([(16, 24)] * 40))
    found = estimates(images, reference.training, seed=0)
    for name, part, mean, covariance in (
        ("frechet", "features", "mu", "sigma"),
        ("spatial_frechet", "spatial", "mu_s", "sigma_s"),
    ):
        known = Moments.known(STATISTICS[mean], STATISTICS[covariance])
        assert found[name].value == pytest.approx(frechet_distance(Moments.of(getattr(images, part)), known))


@pytest.mark.parametrize(
    ("arrays", "framing"),
    [
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, Framing()),  # of another network
        ({}, Framing(size=Size(8, 12))),  # of images of another size
        ({"sigma": np.eye(9)[:5]}, Framing()),
    ],
)
def test_statistics_of_anything_else_are_not_taken(tmp_path, arrays, framing):
    images = np.stack([np.asarray(tinted(i)) for i in range(60)])
    np.savez(tmp_path / "adm.npz", images, **(STATISTICS | arrays))
    found = made_reference(tmp_path / "adm.npz", framing=framing)
    assert not found.manifest.statistics
    assert found.training.moments is None


@dataclass(frozen=True, kw_only=True)
class _Words:
    details: dict[str, tuple[int, ...]]
    anything: Any = None


def test_words_by_name_and_anything_are_read_as_they_were_written():
    written = _Words(details={"a": (1, 2), "b c": ()}, anything={"x": [1, {"y": None}]})
    assert from_dict(_Words, json.loads(json.dumps(to_dict(written)))) == written
    for wrong, message in (({"a": ["x"]}, r"details\.a\[0\] is 'x'"), ([1], r"details is \[1\]")):
        with pytest.raises(ConfigError, match=message):
            from_dict(_Words, {"details": wrong})
