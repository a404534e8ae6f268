"""`anyres evaluate` tells folders apart, and refuses what it cannot measure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.cli import main
from anyres.evaluate import report
from anyres.evaluate.features import Features
from anyres.evaluate.options import EvaluateOptions
from anyres.evaluate.report import evaluate
from anyres.grid import Size
from tests.made import picture

SIZE = Size(24, 32)


class Colours:
    """A network that sees mean colours."""

    name, dim, classes = "colours", 3, 3

    def __call__(self, images: torch.Tensor) -> Features:
        mean = images.float().mean(dim=(2, 3)) / 255
        return Features(pooled=mean, probabilities=mean.softmax(dim=1))


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setattr(report, "load_network", lambda name, device: Colours())


def folder(root: Path, seeds: range) -> Path:
    root.mkdir()
    for seed in seeds:
        picture(SIZE, seed).save(root / f"{seed}.png")
    return root


@pytest.fixture
def real(tmp_path):
    return folder(tmp_path / "real", range(60))


@pytest.mark.usefixtures("colours")
def test_a_sample_of_the_same_pictures_is_near_and_a_collapse_is_far(real, tmp_path):
    same = evaluate(EvaluateOptions(images=folder(tmp_path / "same", range(100, 160)), reference=real))
    (tmp_path / "collapsed").mkdir()
    for i in range(60):
        picture(SIZE, i % 2).save(tmp_path / "collapsed" / f"{i}.png")
    collapsed = evaluate(EvaluateOptions(images=tmp_path / "collapsed", reference=real))
    assert same.kid.low < 0 < same.kid.high
    assert collapsed.kid.low > 0
    assert collapsed.recall < same.recall
    assert (same.images, same.reference_images, same.frechet) == (60, 60, None)
    assert "KID (colours)" in str(same)
    assert "not given below 5,000" in str(same)


@pytest.mark.usefixtures("colours")
def test_the_frechet_distance_is_given_from_enough_images_on(real, monkeypatch):
    monkeypatch.setattr(report, "FRECHET_IMAGES", 60)
    assert evaluate(EvaluateOptions(images=real, reference=real)).frechet == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("colours")
def test_the_figures_do_not_depend_on_batches_and_threads(real, tmp_path):
    made = folder(tmp_path / "made", range(100, 130))
    one = evaluate(EvaluateOptions(images=made, reference=real, batch=1, workers=1))
    other = evaluate(EvaluateOptions(images=made, reference=real, batch=7, workers=3))
    np.testing.assert_allclose(one.kid.value, other.kid.value, rtol=1e-4)
    assert (one.recall, one.density) == (other.recall, other.density)


def test_the_command_writes_what_it_measured_and_how(tmp_path, capsys):
    out, real = tmp_path / "deep" / "figures.json", folder(tmp_path / "few", range(12))
    arguments = ["evaluate", str(real), "--reference", str(real), "--size", "24x24", "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "KID (efficientnet-lite2)" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert told["metrics"]["precision"] == 1
    assert told["metrics"]["framing"].startswith("largest centred crop")
    assert told["counts"]["images"] == {"used": 12, "unreadable": 0, "small": 0}
    assert told["settings"]["size"] == "24x24"
    assert set(told["versions"]) == {"anyres", "torch", "numpy"}


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--reference", "{real}"], "there is no folder"),
        (["{empty}", "--reference", "{real}"], "holds no image"),
        (["{few}", "--reference", "{real}"], "4 images for an evaluation"),
        (["{real}", "--reference", "{real}", "--size", "48x48"], "60 are smaller than the size"),
        (["{real}", "--reference", "{real}", "--size", "48x48"], "a smaller --size, or --upscale"),
        (["{real}", "--reference", "{real}", "--size", "big"], "WIDTHxHEIGHT"),
        (["{real}", "--reference", "{real}", "--upscale"], "--upscale without --size"),
        (["{real}", "--reference", "{real}", "--batch", "0"], "batch = 0"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(real, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    few = folder(tmp_path / "few", range(4))
    places = {"real": real, "empty": tmp_path / "empty", "few": few}
    assert main(["evaluate", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to fix:" in error
    assert "Traceback" not in error


def test_an_unknown_network_is_refused(real, capsys):
    assert main(["evaluate", str(real), "--reference", str(real), "--network", "inceptoin"]) == 2
    assert "one of efficientnet-lite0" in capsys.readouterr().err
