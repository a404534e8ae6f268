"""Sampled images: which ones follows from the plan alone, and what is there is not made again."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.errors import ConfigError, DataError
from anyres.evaluate.samples import SamplingRecord, make_samples, record, requests
from anyres.evaluate.sets import FeatureSet
from anyres.grid import Size
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import SamplingSettings
from tests.made import pipeline

SIZES = {"land": (32, 48), "nebula": (48, 32), "planet": (32, 32)}


def real(labels: list[str]) -> FeatureSet:
    """A reference whose images have sizes that tell their label."""
    return FeatureSet(
        count=len(labels),
        names=tuple(map(str, range(len(labels)))),
        labels=tuple(labels),
        sizes=np.array([SIZES.get(label, (16, 16)) for label in labels]),
        features=np.zeros((len(labels), 2), np.float32),
        spatial=None,
        probabilities=None,
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline(steps=2)


def plan(pipe: Pipeline, **changed) -> SamplingRecord:
    return replace(
        record(pipe, "made", SamplingSettings(steps=2), labels="data", size=None, seed=3, inputs="abc"), **changed
    )


DATA = ["land"] * 6 + ["planet"] * 3 + ["nebula"] * 1


@pytest.mark.parametrize("labels", ["data", "balanced", "random"])
@pytest.mark.parametrize("size", ["data", "32x16"])
def test_fewer_images_are_the_first_of_more(pipe, labels, size):
    few, many = (requests(pipe, count, plan(pipe, labels=labels, size=size), real(DATA)) for count in (7, 40))
    assert many[:7] == few
    assert [request.seed for request in many] == list(range(3, 43))


def test_labels_and_sizes_of_the_data_come_as_often_as_there(pipe):
    made = requests(pipe, 20, plan(pipe), real(DATA))
    names = [pipe.labels.name(request.label) for request in made]
    assert {name: names.count(name) for name in SIZES} == {"land": 12, "planet": 6, "nebula": 2}
    assert all(request.size == Size(*SIZES[name]) for request, name in zip(made, names, strict=True))
    assert names[:10] != DATA  # in no order of the files


def test_balanced_labels_come_equally_often_and_take_the_sizes_of_their_label(pipe):
    made = requests(pipe, 30, plan(pipe, labels="balanced"), real(DATA[:-1]))  # no nebula
    names = [pipe.labels.name(request.label) for request in made]
    assert {names.count(name) for name in SIZES} == {10}
    for request, name in zip(made, names, strict=True):
        assert request.size == Size(*SIZES[name]) or name == "nebula"
    sizes = {request.size for request, name in zip(made, names, strict=True) if name == "nebula"}
    assert sizes <= {Size(*SIZES["land"]), Size(*SIZES["planet"])}


def test_random_labels_are_all_drawn_and_follow_the_seed(pipe):
    made, again, other = (
        [request.label for request in requests(pipe, 60, plan(pipe, labels="random", seed=seed), real(DATA))]
        for seed in (3, 3, 4)
    )
    assert set(made) == {0, 1, 2}
    assert made == again != other
    assert len({made.count(label) for label in range(3)}) > 1  # not balanced


def test_a_fixed_size_is_every_images(pipe):
    assert {r.size for r in requests(pipe, 9, plan(pipe, size="48x16"), real(DATA))} == {Size(16, 48)}


def test_sizes_and_labels_that_the_model_cannot_make_are_refused(pipe):
    with pytest.raises(ConfigError, match="labels that the model does not know: fish") as refused:
        requests(pipe, 2, plan(pipe), real(["fish", "land"]))
    assert "--labels balanced" in refused.value.fix
    odd = replace(real(DATA), sizes=np.full((10, 2), 33))
    with pytest.raises(ConfigError, match="33x33"):
        requests(pipe, 2, plan(pipe), odd)


def read(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_images_do_not_depend_on_the_budget_or_on_the_others(pipe, tmp_path):
    wanted, made = requests(pipe, 8, plan(pipe), real(DATA)), []
    for number, (budget, part) in enumerate(((4096, wanted), (7, wanted), (12, wanted[3:6]))):
        folder = tmp_path / str(number)
        source = make_samples(pipe, part, plan(pipe), folder, budget=budget)
        assert [source.read(i).size for i in range(len(part))] == [request.size for request in part]
        assert list(source.labels) == [pipe.labels.name(request.label) for request in part]
        made.append(read(folder))
    assert set(made[2]) < set(made[0]) == set(made[1])
    for a, b in itertools.pairwise(made):
        for name in a.keys() & b.keys():
            # sums run in another order in another pack
            assert np.abs(a[name].astype(int) - b[name].astype(int)).max() <= 1


def test_a_restart_makes_only_what_is_missing(pipe, tmp_path, monkeypatch):
    wanted = requests(pipe, 6, plan(pipe), real(DATA))
    make_samples(pipe, wanted, plan(pipe), tmp_path, budget=16)
    before = read(tmp_path)
    gone = sorted(tmp_path.glob("*.png"))[2]
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    asked = []
    solve = Pipeline._solve
    monkeypatch.setattr(Pipeline, "_solve", lambda self, pack, *rest: asked.extend(pack) or solve(self, pack, *rest))
    make_samples(pipe, wanted, plan(pipe), tmp_path, budget=16)
    assert len(asked) == 1
    assert np.abs(read(tmp_path)[gone.name].astype(int) - before[gone.name].astype(int)).max() <= 1
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": SamplingSettings(steps=3)}, "settings.steps: 2 → 3"),
        ({"weights": "other"}, "weights: "),
        ({"labels": "balanced"}, "labels: data → balanced"),
        ({"seed": 4}, "seed: 3 → 4"),
        ({"reference": "other"}, "reference: abc → other"),
    ],
)
def test_images_made_with_something_else_are_not_mixed_in(pipe, tmp_path, changed, message):
    make_samples(pipe, requests(pipe, 1, plan(pipe), real(DATA)), plan(pipe), tmp_path, budget=None)
    with pytest.raises(DataError, match="made with something else") as refused:
        make_samples(pipe, (), plan(pipe, **changed), tmp_path, budget=None)
    assert message in refused.value.got


def test_a_folder_of_other_images_is_refused(pipe, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="without a sampling"):
        make_samples(pipe, (), plan(pipe), tmp_path, budget=None)


def test_the_record_knows_the_weights_and_says_how(pipe):
    other = pipeline(steps=2)
    with_change = next(other.model.parameters())
    with_change.data[0] += 1e-3
    assert plan(pipe).weights == plan(pipeline(steps=2)).weights != plan(other).weights
    assert plan(pipe).words()["labels"] == "as often as in the reference"
    assert "each with its label" in plan(pipe).words()["sizes"]
    fixed = record(pipe, "made", SamplingSettings(), labels="random", size=Size(16, 32), seed=0, inputs="abc")
    assert (fixed.words()["sizes"], fixed.reference) == ("32x16", "")


RANK = """
import sys
from pathlib import Path
from anyres.evaluate.samples import make_samples
from tests.evaluate.test_samples import DATA, plan, real, requests
from tests.made import pipeline

pipe = pipeline(steps=2)
make_samples(pipe, requests(pipe, 7, plan(pipe), real(DATA)), plan(pipe), Path(sys.argv[1]), budget=16)
print(len(list(Path(sys.argv[1]).glob("*.png"))))
"""


@pytest.mark.slow
def test_several_processes_make_the_images_of_one(pipe, tmp_path):
    make_samples(pipe, requests(pipe, 7, plan(pipe), real(DATA)), plan(pipe), tmp_path / "one", budget=16)
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            script,
            tmp_path / "two",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # neither goes on before all are there; they print at once, perhaps into one line
    assert "".join(done.stdout.split()) == "77"
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(np.abs(one[name].astype(int) - two[name].astype(int)).max() <= 1 for name in one)
