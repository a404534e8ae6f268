"""Whole runs on a made dataset: exact resume, signals, damage, and bad input."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyres.cli import main
from anyres.config import from_dict
from anyres.errors import CheckpointError, DataError, NonFiniteError
from anyres.files import read_json
from anyres.latents.format import LatentDataset
from anyres.packing.plan import PackingConfig
from anyres.recipes.builtin import RECIPES
from anyres.recipes.summary import DataSummary
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import SamplingSettings
from anyres.train import checkpoint, loop
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from anyres.train.loop import train
from tests.made import dataset, pipeline
from tests.model.helpers import small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


def settings(data: Path, **changes) -> TrainConfig:
    info = LatentDataset.open(data).info
    config = TrainConfig(
        model=small_config(channels=info.autoencoder.channels, num_classes=len(info.labels), patch_size=2),
        packing=PackingConfig(budget=12),
        steps=6,
        packs_per_step=2,
        held_out=HeldOutConfig(share=0.2, every=3, packs=2),
        pictures=PicturesConfig(every=3, sizes=("32x32", "48x16"), labels=2),
        sampling=SamplingSettings(steps=2),
        checkpoint_every=2,
        log_every=1,
    )
    return replace(config, **changes)


def last_state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def losses(run: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]
    assert len(found) == len(dict(found))  # no step twice
    return dict(found)


def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(data: Path, tmp_path: Path) -> None:
    train(settings(data), data, tmp_path / "whole", device="cpu")
    train(settings(data, steps=3), data, tmp_path / "parts", device="cpu")  # ends between two checkpoints
    report = train(settings(data), data, tmp_path / "parts", device="cpu")
    assert report.progress.step == 6
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_leaves_what_it_promises(data: Path, tmp_path: Path) -> None:
    report = train(settings(data), data, tmp_path / "run", device="cpu")
    run = tmp_path / "run"
    assert [path.name for path in checkpoint.saved(run / "checkpoints")] == ["step-4", "step-6"]
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-0000003.png", "step-0000006.png"]
    assert from_dict(TrainConfig, read_json(run / "config.json")) == settings(data)
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("train") == 6
    assert kinds.count("held_out") == 2
    assert list((run / "tensorboard").iterdir())
    assert read_json(run / "environment.json")[0]["device"] == "cpu"
    pipe = Pipeline.from_pretrained(run, device="cpu")
    assert pipe.defaults == settings(data).sampling
    assert pipe("dog", "48x16", steps=2)[0].size == (48, 16)
    assert report.progress.images > 0
    assert not list(run.rglob("*.tmp"))


def test_packs_a_step_are_the_same_images_however_they_are_accumulated(data: Path, tmp_path: Path) -> None:
    """Twice the packs a step is twice the images a step, from the same stream."""
    train(settings(data, steps=4, packs_per_step=1), data, tmp_path / "ones", device="cpu")
    train(settings(data, steps=2, packs_per_step=2), data, tmp_path / "twos", device="cpu")
    positions = [
        read_json(checkpoint.saved(tmp_path / name / "checkpoints")[-1] / "meta.json")["progress"]
        for name in ("ones", "twos")
    ]
    for progress in positions:
        del progress["step"]
    assert positions[0] == positions[1]


def test_a_damaged_checkpoint_is_passed_over(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(settings(data, steps=4), data, tmp_path / "run", device="cpu")
    train(settings(data), data, tmp_path / "whole", device="cpu")
    newest = checkpoint.saved(tmp_path / "run" / "checkpoints")[-1]
    shard = next(newest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:1000])
    train(settings(data), data, tmp_path / "run", device="cpu")
    assert "step-4 cannot be read" in caplog.text
    whole, again = last_state(tmp_path / "whole"), last_state(tmp_path / "run")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for path in checkpoint.saved(tmp_path / "run" / "checkpoints"):
        (path / "meta.json").write_text("{")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        train(settings(data, steps=8), data, tmp_path / "run", device="cpu")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_state_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = loop.draw

    def poisoned(pack, config, *address, **how):
        drawn = honest(pack, config, *address, **how)
        if address[:2] == (0, 3):
            drawn.noise[0, 0] = float("inf")
        return drawn

    monkeypatch.setattr(loop, "draw", poisoned)
    slow = {"log_every": 100, "checkpoint_every": 100, "held_out": HeldOutConfig(every=100)}
    slow |= {"pictures": PicturesConfig(every=0)}
    with pytest.raises(NonFiniteError, match="step 4: loss"):
        train(settings(data, **slow), data, tmp_path / "run", device="cpu")
    assert [path.name for path in checkpoint.saved(tmp_path / "run" / "checkpoints")] == ["step-3"]
    monkeypatch.undo()
    train(settings(data, **slow), data, tmp_path / "run", device="cpu")
    train(settings(data, **slow), data, tmp_path / "whole", device="cpu")
    whole, again = last_state(tmp_path / "whole"), last_state(tmp_path / "run")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


COMMAND = """
import sys
from anyres.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signals_save_and_leave_with_their_status(
    data: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "tutorial", "--data", str(data), "--out", str(run), "--steps", "100000"]
    arguments += ["--pictures.every", "0", "--log-every", "1", "--checkpoint-every", "2", "--device", "cpu"]
    arguments += ["--model.hidden-size", "48", "--model.depth", "2", "--packing.budget", "128"]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not checkpoint.saved(run / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    saved = checkpoint.saved(run / "checkpoints")
    assert saved
    if number != signal.SIGKILL:
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        assert saved[-1].name == f"step-{last}"  # nothing lost
    step = int(saved[-1].name.removeprefix("step-"))
    arguments[arguments.index("100000")] = str(step + 1)
    assert main(arguments) == 0
    assert checkpoint.saved(run / "checkpoints")[-1].name == f"step-{step + 1}"


def test_a_run_with_another_architecture_or_autoencoder_or_labels_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings(data, steps=2), data, run, device="cpu")
    before = (run / "config.json").read_bytes()
    deeper = settings(data, model=replace(settings(data).model, depth=3))
    with pytest.raises(CheckpointError, match=r"model\.depth: 2 → 3"):
        train(deeper, data, run, device="cpu")
    assert (run / "config.json").read_bytes() == before
    other = dataset(tmp_path / "other", multiple_of_cells=2, first_seed=500)
    with pytest.raises(CheckpointError, match="prepared with"):
        train(settings(other), other, run, device="cpu")
    renamed = tmp_path / "renamed"
    shutil.copytree(data, renamed)
    info = json.loads((renamed / "dataset.json").read_text())
    (renamed / "dataset.json").write_text(json.dumps({**info, "labels": ["dog", "cat"]}))
    with pytest.raises(CheckpointError, match="has the labels"):
        train(settings(renamed), renamed, run, device="cpu")


def test_data_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model has 7 channels"):
        train(settings(data, model=small_config(channels=7, num_classes=2)), data, tmp_path / "a", device="cpu")
    with pytest.raises(DataError, match=r"--packing.budget 6"):
        train(settings(data, packing=PackingConfig(budget=5)), data, tmp_path / "b", device="cpu")
    four = small_config(channels=32, num_classes=2, patch_size=4)
    with pytest.raises(DataError, match="--multiple-of-cells 4"):
        train(settings(data, model=four), data, tmp_path / "c", device="cpu")
    with pytest.raises(DataError, match="held-out share"):
        train(settings(data, held_out=HeldOutConfig(share=0.9999999)), data, tmp_path / "d", device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="is not a training run"):
        train(settings(data), data, tmp_path / "full", device="cpu")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
    pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="is not a training run"):
        train(settings(data), data, tmp_path / "model", device="cpu")


def test_long_images_are_shrunk_where_the_recipe_says_so(data: Path, tmp_path: Path) -> None:
    shrink = settings(data, packing=PackingConfig(budget=4, oversize="shrink"), steps=2)
    assert train(shrink, data, tmp_path / "run", device="cpu").shrunk > 0


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """The disk takes no file of more bytes; Python ignores the signal, so that writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_a_checkpoint_loses_nothing(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings(data, steps=2), data, run, device="cpu")
    whole = sorted(path.stat().st_size for path in run.rglob("*") if path.is_file())
    for size in (whole[-1] - 1, whole[-2] - 1, 200):
        with small_files(size), pytest.raises(DataError, match="cannot write"):
            train(settings(data, steps=4), data, run, device="cpu")
        assert [path.name for path in checkpoint.saved(run / "checkpoints")] == ["step-2"]
        assert not list(run.rglob(".*.tmp"))
    train(settings(data, steps=4), data, run, device="cpu")
    train(settings(data, steps=4), data, tmp_path / "undisturbed", device="cpu")
    ours, theirs = last_state(run), last_state(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_disk_that_refuses_the_model_keeps_the_old_one(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with small_files(len(before) - 1), pytest.raises(DataError, match="cannot write"):
        pipeline().save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tutorail"], "did you mean 'tutorial'"),
        ([], "no recipe was given"),
        (["tutorial", "--packing.budget", "0"], "budget of 0"),
        (["tutorial", "--packing.budget", "1"], "--packing.budget 6"),
        (["tutorial", "--attention", "varlen"], "needs a CUDA device"),
        (["tutorial", "--attention", "sdpo"], "did you mean 'sdpa'"),
        (["tutorial", "--steps", "0"], "steps = 0"),
        (["tutorial", "--model.num-heads", "5"], "head dimension"),
        (["tutorial", "--device", "cuda:9"], "not available"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    where = ["--data", str(data), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, *where]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "to fix:" in error


@pytest.mark.parametrize("what", ["missing", "empty", "unfinished"])
def test_a_missing_dataset_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    folder = tmp_path / "data"
    if what != "missing":
        folder.mkdir()
    if what == "unfinished":
        (folder / ".parts").mkdir()
    assert main(["train", "tutorial", "--data", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert {"missing": "no folder", "empty": "anyres prepare IMAGES", "unfinished": "to finish it"}[what] in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_for_the_datas_channels_classes_and_sizes(data: Path, name: str) -> None:
    summary = DataSummary.of(LatentDataset.open(data))
    config = RECIPES[name](summary)
    assert (config.model.channels, config.model.num_classes) == (summary.channels, summary.num_classes)
    assert config.packing.budget >= summary.largest // config.model.patch_size**2
    assert len(config.pictures.sizes) == 3
