"""`anyres evaluate` end to end: tells sets apart beside its controls, continues, and refuses what it cannot measure."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from anyres.cli import main
from anyres.errors import DataError
from anyres.evaluate import evaluation, figures, sets
from anyres.evaluate.evaluation import evaluate
from anyres.evaluate.options import EvaluateOptions
from anyres.evaluate.report import read_report
from anyres.evaluate.results import Evaluation
from anyres.evaluate.subject import Subject
from anyres.grid import Size
from tests.made import picture, pipeline

LABELS = ("land", "nebula", "planet")
SIZES = (Size(32, 48), Size(48, 32), Size(32, 32))


def folder(root: Path, each: int, first: int = 0, labels: tuple[str, ...] = LABELS) -> Path:
    """Pictures whose label shows in their colour and their shape."""
    for label in labels:
        number = LABELS.index(label)
        (root / label).mkdir(parents=True)
        for i in range(each):
            pixels = np.asarray(picture(SIZES[number], 1000 * number + first + i)).astype(int)
            tinted = pixels // 2 + np.eye(3, dtype=int)[number] * 100
            Image.fromarray(tinted.astype(np.uint8)).save(root / label / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("real") / "images", 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    pipeline(steps=2).save_pretrained(root / "pipe")
    return root / "pipe"


def measure(made: Path | str, real: Path, out: Path, **options) -> Evaluation:
    chosen = EvaluateOptions(made=str(made), reference=real, out=out, device="cpu", **options)
    found = evaluate(chosen, Subject.open(chosen))
    assert found is not None
    return found


@pytest.mark.usefixtures("colours")
def test_pictures_of_the_same_kind_are_near_and_a_collapse_is_far_and_so_are_the_controls(real, tmp_path):
    same = measure(folder(tmp_path / "same", 20, first=500), real, tmp_path / "a")
    collapsed = measure(folder(tmp_path / "few", 60, first=500, labels=("planet",)), real, tmp_path / "b")
    assert same.figures.kid.low < 0.05 < collapsed.figures.kid.low
    assert collapsed.figures.recall.high < same.figures.recall.low
    assert same.headline == "kid"
    assert same.figures.frechet is None
    for found in (same, collapsed):
        by_name = {column.name: column.figures for column in found.controls}
        assert list(by_name) == ["made", "held-out", "collapse", "blur"]
        assert len({one.images for one in by_name.values()}) == 1
        separation = {one.metric: one for one in found.separation}
        assert separation["kid"].collapse
        assert separation["kid"].blur
    assert {group.name: group.images for group in same.by_shape} == {"near-square": 20, "tall": 20, "wide": 20}
    assert {group.name for group in same.by_label} == set(LABELS)
    assert collapsed.by_label == ()  # one label alone is the whole


@pytest.mark.usefixtures("colours")
def test_what_is_written_is_what_was_found(real, tmp_path):
    made = folder(tmp_path / "made", 10, first=500)
    (made / "land" / "broken.png").write_bytes(b"no image")
    found = measure(made, real, tmp_path / "out")
    assert read_report(tmp_path / "out") == found
    assert found.made.unreadable == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{found.figures.kid.value:.3g}"[:5] in page
    assert "KID (colours)" in page
    assert found.settings["protocol"]["framing"]["size"] is None


def test_an_evaluation_is_kept_until_something_changes(real, tmp_path, colours):
    made = folder(tmp_path / "made", 10, first=500)
    first = measure(made, real, tmp_path / "out")
    seen = colours.seen
    assert measure(made, real, tmp_path / "out", workers=1, batch=3) == first
    assert colours.seen == seen
    other = measure(made, real, tmp_path / "out", seed=1)  # also another choice of held-out images' draws
    assert other.figures.kid.value == pytest.approx(first.figures.kid.value)
    assert other.figures.kid.low != first.figures.kid.low
    seen = colours.seen
    path = made / "land" / "000.png"
    Image.open(path).filter(ImageFilter.GaussianBlur(9)).save(path)
    changed = measure(made, real, tmp_path / "out", seed=1)
    assert colours.seen == seen + 30  # the made images alone: the reference is as it was
    assert changed.figures.kid.value != first.figures.kid.value


@pytest.mark.usefixtures("colours")
def test_an_npz_is_a_folder(real, tmp_path):
    made = folder(tmp_path / "made", 20, first=500, labels=("planet",))
    arrays = np.stack([np.asarray(Image.open(path)) for path in sorted(made.rglob("*.png"))])
    np.savez(tmp_path / "made.npz", arrays, np.zeros(20, np.int64))
    one, other = (measure(tmp_path / name, real, tmp_path / f"out-{name}") for name in ("made", "made.npz"))
    assert one.figures == other.figures
    assert (one.made.kind, other.made.kind) == ("folder", "npz")


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_a_model_is_sampled_on_the_spot_and_continues(real, model, tmp_path, monkeypatch):
    options = {"max_side": 32, "count": 18, "trained_side": 32}
    found = measure(model, real, tmp_path / "out", **options)
    samples = list((tmp_path / "out" / "samples").glob("*.png"))
    assert found.made.kind == "model"
    assert found.made.images == len(samples) == 18
    assert found.made.details["labels"] == "as often as in the reference"
    assert {Image.open(path).size for path in samples} <= {(32, 16), (16, 32), (32, 32)}
    bleeding = next(check for check in found.signatures if "bleeding" in check.name)
    assert bleeding.made is not None
    assert bleeding.made.value == 0
    more = measure(model, real, tmp_path / "out", **{**options, "count": 24})
    assert more.made.images == 24
    balanced = measure(model, real, tmp_path / "balanced", labels="balanced", size="32x32", count=12)
    assert balanced.made.details["labels"] == "each as often as the others"
    assert balanced.made.details["sizes"] == "32x32"
    assert {group.images for group in balanced.by_label} == {4}


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_the_headline_changes_with_the_number_of_images(real, tmp_path, monkeypatch):
    for module in (figures, sets, evaluation):
        monkeypatch.setattr(module, "FRECHET_IMAGES", 30)
    made = folder(tmp_path / "made", 20, first=500, labels=("planet",))
    few = measure(made, real, tmp_path / "few", size="32x32")
    assert few.headline == "kid"
    many = measure(folder(tmp_path / "more", 15, first=500), real, tmp_path / "many", size="32x32")
    assert many.headline == "frechet"
    assert many.figures.frechet is not None
    assert many.figures.spatial_frechet is not None
    mixed = measure(tmp_path / "more", real, tmp_path / "mixed")
    assert mixed.figures.frechet is not None
    assert mixed.figures.spatial_frechet is None
    with pytest.raises(DataError, match="several sizes") as refused:
        measure(tmp_path / "more", real, tmp_path / "refused", headline="spatial_frechet")
    assert "--size" in refused.value.fix
    chosen = measure(tmp_path / "more", real, tmp_path / "chosen", size="32x32", headline="spatial_frechet")
    assert chosen.headline == "spatial_frechet"


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--reference", "{real}"], "nothing is named 'nowhere'"),
        (["nowhere.npz", "--reference", "{real}"], "nowhere.npz cannot be read"),
        (["{empty}", "--reference", "{real}"], "holds no image"),
        (["{few}", "--reference", "{real}"], "4 images for an evaluation"),
        (["{made}", "--reference", "{few}"], "images for a reference"),
        (["{made}", "--reference", "{made}", "--held-out", "{few}"], "4 images for the controls"),
        (["{made}"], "no reference"),
        (["--reference", "{real}"], "nothing to evaluate"),
        (["{made}", "--reference", "{real}", "--size", "64x64"], "120 are smaller than the size"),
        (["{made}", "--reference", "{real}", "--size", "64x64"], "a smaller --size, or --upscale"),
        (["{made}", "--reference", "{real}", "--size", "big"], "WIDTHxHEIGHT"),
        (["{made}", "--reference", "{real}", "--upscale"], "--upscale without --size"),
        (["{made}", "--reference", "{real}", "--size", "8x8", "--max-side", "8"], "--size and --max-side"),
        (["{made}", "--reference", "{real}", "--batch", "0"], "batch = 0"),
        (["{made}", "--reference", "{real}", "--held-out-share", "1"], "held_out_share = 1.0"),
        (["{made}", "--reference", "{real}", "--guidance", "2"], "--guidance for"),
        (["{made}", "--reference", "{real}", "--guidance", "0"], "--guidance for"),
        (["{made}", "--reference", "{real}", "--sweep", "steps=1,2"], "a sweep of"),
        (["{made}", "--reference", "{real}", "--headline", "frechet"], "30 images for the metric frechet"),
        (["{made}", "--reference", "{real}", "--headline", "frechet"], "at least 5000"),
        (["{model}", "--reference", "{real}"], "no size to sample"),
        (["{model}", "--reference", "{real}", "--size", "30x30"], "multiples of 16"),
        (["{model}", "--reference", "{real}", "--size", "32x32", "--count", "3"], "3 images for an evaluation"),
        (["{model}", "--reference", "{real}", "--size", "32x32", "--preset", "xl"], "preset 'xl'"),
        (["{model}", "--reference", "{made}", "--compare", "a", "b"], "--compare with something to evaluate"),
        (["--compare", "{empty}", "{empty}"], "report.json does not exist"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(real, model, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"real": real, "model": model, "empty": tmp_path / "empty"}
    places["few"] = folder(tmp_path / "few", 4, first=500, labels=("land",))
    places["made"] = folder(tmp_path / "made", 10, first=500)
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["evaluate", *(argument.format(**places) for argument in arguments), *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to fix:" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.usefixtures("colours")
def test_a_saved_reference_serves_again_and_only_by_its_own_protocol(real, model, tmp_path, capsys):
    reference = str(tmp_path / "reference")
    assert main(["reference", str(real), "--out", reference, "--size", "32x32", "--device", "cpu"]) == 0
    assert "32x32" in capsys.readouterr().out
    made = str(folder(tmp_path / "made", 10, first=500))
    evaluate = ["evaluate", made, "--reference", reference, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(evaluate) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["framing"].startswith("largest centred crop")
    assert told["reference"]["kind"] == "saved reference"
    assert main([*evaluate, "--size", "16x16"]) == 2
    assert "framing.size.height: 32 → 16" in capsys.readouterr().err
    assert main([*evaluate, "--held-out-share", "0.5"]) == 2
    assert "which holds out" in capsys.readouterr().err
    sampled = ["evaluate", str(model), "--reference", reference, "--out", str(tmp_path / "sampled"), "--count", "12"]
    assert main([*sampled, "--device", "cpu"]) == 0  # at the reference's size
    assert {Image.open(path).size for path in (tmp_path / "sampled" / "samples").glob("*.png")} == {(32, 32)}


@pytest.mark.slow
def test_the_packaged_network_measures_from_the_command_line(tmp_path, capsys):
    made, real = folder(tmp_path / "made", 4, first=500), folder(tmp_path / "real", 12)
    command = ["evaluate", str(made), "--reference", str(real), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, "--held-out-share", "0.3"]) == 0
    assert "KID (efficientnet-lite2)" in capsys.readouterr().out
    assert set(read_report(tmp_path / "out").versions) >= {"anyres", "torch", "numpy", "device"}
