"""Two evaluations side by side, and one at each combination of settings."""

import json
from pathlib import Path

import pytest

from anyres.cli import main
from anyres.errors import AnyResError, ConfigError, DataError
from anyres.evaluate.compare import compare
from anyres.evaluate.options import EvaluateOptions
from anyres.evaluate.subject import Subject
from anyres.evaluate.sweep import read_axes, sweep
from anyres.evaluate.words import sweep_text
from tests.evaluate.test_evaluation import folder, measure
from tests.made import pipeline

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("real") / "images", 40)


def test_equal_sets_do_not_differ_and_a_collapse_does(real, tmp_path):
    places = [tmp_path / name for name in ("a", "b", "c")]
    measure(folder(tmp_path / "one", 15, first=500), real, places[0])
    measure(folder(tmp_path / "two", 20, first=700), real, places[1])
    measure(folder(tmp_path / "few", 50, first=500, labels=("planet",)), real, places[2])
    same = {one.metric: one for one in compare(places[0], places[1], tmp_path / "ab", seed=0).differences}
    worse = {one.metric: one for one in compare(places[0], places[2], tmp_path / "ac", seed=0).differences}
    assert same["kid"].difference.low < 0 < same["kid"].difference.high
    assert worse["kid"].difference.low > 0
    assert worse["recall"].difference.high < 0
    for one in worse.values():
        assert one.difference.value == pytest.approx(one.b.value - one.a.value)
    told = json.loads((tmp_path / "ac" / "comparison.json").read_text())
    assert told["images"] == 45  # both at the smaller number
    assert "KID" in (tmp_path / "ac" / "report.html").read_text()


def test_a_set_does_not_differ_from_itself_more_than_chance(real, tmp_path):
    measure(folder(tmp_path / "one", 15, first=500), real, tmp_path / "a")
    for one in compare(tmp_path / "a", tmp_path / "a", tmp_path / "aa", seed=0).differences:
        assert one.difference.value == 0
        assert one.difference.low <= 0 <= one.difference.high


def test_evaluations_that_were_not_measured_alike_are_not_compared(real, tmp_path):
    made = folder(tmp_path / "one", 15, first=500)
    measure(made, real, tmp_path / "a")
    measure(made, real, tmp_path / "b", size="32x32")
    measure(made, folder(tmp_path / "other", 20, first=900), tmp_path / "c")
    for other, message in (("b", "framing.size"), ("c", "reference: ")):
        with pytest.raises(DataError, match="not measured alike") as refused:
            compare(tmp_path / "a", tmp_path / other, tmp_path / "out", seed=0)
        assert message in refused.value.got


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    pipeline(steps=2).save_pretrained(root / "pipe")
    return root / "pipe"


def options(model: Path, real: Path, out: Path, *axes: str, **given) -> EvaluateOptions:
    chosen = {"count": 10, "max_side": 32, **given}
    return EvaluateOptions(made=str(model), reference=real, out=out, device="cpu", sweep=axes, **chosen)


def test_a_sweep_evaluates_every_combination_once(real, model, tmp_path, colours):
    chosen = options(model, real, tmp_path / "out", "steps=1,2", "guidance=1,2.5")
    found = sweep(chosen, Subject.open(chosen))
    assert found is not None
    assert [point.settings for point in found.points] == [
        {"steps": steps, "guidance": guidance} for steps in ("1", "2") for guidance in ("1", "2.5")
    ]
    folders = {tmp_path / "out" / point.folder for point in found.points}
    assert len(folders) == 4
    for place, point in zip((tmp_path / "out" / p.folder for p in found.points), found.points, strict=True):
        told = json.loads((place / "report.json").read_text())
        settings = told["settings"]["sampling"]["settings"]
        assert [settings["steps"], settings["guidance"]] == [float(point.settings[n]) for n in ("steps", "guidance")]
        assert told["figures"]["images"] == 10
        assert (place / "report.html").is_file()
    assert len({point.figures.kid.value for point in found.points}) > 1
    seen = colours.seen
    assert sweep(chosen, Subject.open(chosen)).points == found.points
    assert colours.seen == seen  # all was there


def test_sizes_are_swept_each_against_its_own_reference(real, model, tmp_path):
    chosen = options(model, real, tmp_path / "out", "size=16x16,32x16", "interval=0:0.5,0:1", max_side=None)
    found = sweep(chosen, Subject.open(chosen))
    assert found is not None
    assert len(found.points) == 4
    framings = [json.loads((tmp_path / "out" / p.folder / "report.json").read_text())["framing"] for p in found.points]
    assert ["16x16" in framing for framing in framings] == [True, True, False, False]
    assert [column.name for column in found.held_out] == ["16x16", "32x16"]
    assert [point.reference for point in found.points] == ["16x16", "16x16", "32x16", "32x16"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "figures compare within a size only" in page
    assert "Best" not in page
    assert "held-out, 32x16" in sweep_text(found)
    assert "best" not in sweep_text(found)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("stesp=1",), "did you mean 'steps'"),
        (("steps",), "values with commas"),
        (("steps=1,1",), "steps twice"),
        (("steps=1", "steps=2"), "steps twice"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(axes, message):
    with pytest.raises(ConfigError, match=message):
        read_axes(axes)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("steps=2.5", "a whole number"),
        ("interval=0.7", "LOW:HIGH"),
        ("solver=euler,hein", "'hein'"),
        ("extrapolation=ntk", "'ntk'"),
        ("decoupled=yes", "true or false"),
        ("size=16x16,big", "WIDTHxHEIGHT"),
        ("preset=nit-1x1", "nit-1x1"),
        ("guidance=" + ",".join(map(str, range(300))), "300 combinations"),
    ],
)
def test_wrong_values_are_found_before_anything_is_sampled(real, model, tmp_path, axis, message):
    other = "guidance=1" if axis.startswith("steps") else "steps=1"
    chosen = options(model, real, tmp_path / "out", other, axis, max_side=None if "size" in axis else 32)
    with pytest.raises(AnyResError) as refused:
        sweep(chosen, Subject.open(chosen))
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_command_sweeps_and_compares(real, model, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", str(model), "--reference", str(real), "--max-side", "32", "--count", "10", "--device", "cpu"]
    assert main([*command, "--sweep", "steps=1,2", "--out", str(out)]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    points = [str(out / "points" / name) for name in ("steps=1", "steps=2")]
    assert main(["evaluate", "--compare", *points, "--out", str(tmp_path / "compared")]) == 0
    assert "KID" in capsys.readouterr().out
