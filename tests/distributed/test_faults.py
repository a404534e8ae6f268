"""A trainer that is killed at any instant, or whose disk is full, ends with the weights of an undisturbed run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyres.train import checkpoint, loop
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from anyres.train.loop import train
from tests.distributed.processes import GRACE, Processes, together
from tests.made import dataset, picture_folder
from tests.prepare.killing import CHANGES
from tests.train.test_run import last_state, losses, settings, small_files

KILLS, STEPS = 20, 50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


def plan(data: Path) -> TrainConfig:
    return settings(
        data, steps=STEPS, held_out=HeldOutConfig(share=0.2, every=10, packs=1), pictures=PicturesConfig(every=0)
    )


def watched(config: TrainConfig, data: Path, out: Path, seen: Callable[[str], None]) -> None:
    """Train, and tell of each change of what is in `out`, just before it, and of each step, in its midst."""

    def audit(event: str, args: tuple) -> None:
        opened = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opened or event in CHANGES) and isinstance(args[0], str | Path) and Path(args[0]).is_relative_to(out):
            seen(os.fspath(args[0]))

    honest = loop.update

    def update(*arguments: Any) -> Any:
        seen("step")
        return honest(*arguments)

    sys.addaudithook(audit)
    loop.update = update
    train(config, data, out, device="cpu")


def instants(config: TrainConfig, data: Path, out: Path) -> list[str]:
    """All that `watched` tells of in a whole run."""
    told: list[str] = []
    watched(config, data, out, told.append)
    return told


def killed(config: TrainConfig, data: Path, out: Path, instant: int, file_size: int | None) -> None:
    """A run that is killed at an instant, and perhaps has a disk that takes no larger files."""
    left = instant

    def seen(_what: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    if file_size is None:
        watched(config, data, out, seen)
    else:
        with small_files(file_size):
            watched(config, data, out, seen)


@pytest.mark.slow
def test_killed_at_random_instants_it_ends_as_undisturbed(data: Path, tmp_path: Path) -> None:
    config, out = plan(data), tmp_path / "run"
    (told,) = together(1, instants, config, data, tmp_path / "undisturbed")
    assert sum("/checkpoints/.step-" in what for what in told) > 100  # many instants lie in a save
    chance, ends, saved = random.Random(0), [], []
    for attempt in range(KILLS):
        full = attempt % 5 == 4
        if full:  # only a checkpoint is too large, or the model, too
            (refused,) = Processes(1, killed, config, data, out, 10_000, 10 ** chance.choice((4, 6))).results()
            assert refused.kind == "DataError", refused.text
        limit = 20_000 if full else None
        ends += Processes(1, killed, config, data, out, chance.randrange(1, 160), limit).end()
        saved.append(newest(out))
    assert ends.count(-signal.SIGKILL) >= KILLS - 4  # on a full disk it may end before it is killed
    assert saved == sorted(saved)  # what is saved is not lost
    assert len(set(saved)) > 5
    together(1, train_on_cpu, config, data, out)
    ours, theirs = last_state(out), last_state(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(out) == losses(tmp_path / "undisturbed")
    assert not list(out.rglob(".*.tmp"))


def train_on_cpu(config: TrainConfig, data: Path, out: Path) -> None:
    train(config, data, out, device="cpu")


def newest(run: Path) -> int:
    found = checkpoint.saved(run / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


@pytest.mark.slow
def test_a_process_that_dies_is_brought_back_by_torchrun_or_ends_the_job(data: Path, tmp_path: Path) -> None:
    """As a user runs it; a process of two is killed twice, where one restart is allowed."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "anyres", "-v", "train", "tutorial", "--device", "cpu"]
    command += ["--data", str(data), "--out", str(out), "--steps", "100000", "--packs-per-step", "2"]
    command += ["--pictures.every", "0", "--checkpoint-every", "5", "--held-out.share", "0"]
    command += ["--model.hidden-size", "48", "--model.depth", "2", "--packing.budget", "128"]
    log = tmp_path / "log"
    with log.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        saved = 0
        for _ in range(2):
            wait_until(lambda before=saved: newest(out) > before, job, log)
            saved = newest(out)
            os.kill(worker(job.pid, rank=1), signal.SIGKILL)
            assert newest(out) >= saved
        status = job.wait(GRACE)
    finally:
        job.kill()
    text = log.read_text()
    assert status == 1
    assert re.search(r"continuing from \S+step-\d+", text)  # after the first
    assert "has lost another one" in text  # the process that was left says why it ends
    assert re.search(r"rank\s*: 1 .*\n.*exitcode\s*: -9", text)  # and torchrun, which of them was lost
    assert newest(out) >= saved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere", "--out", "run"], "there is no folder nowhere"),
        (["--dat", "nowhere"], "Unrecognized options: --dat"),
        (["--plan", "--packs-per-step", "2"], "recipe   tutorial"),
    ],
)
def test_what_all_processes_would_say_is_said_once(options: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "anyres", "train", "tutorial", *options]
    job = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert job.returncode == (0 if "--plan" in options else 1)  # torchrun's own
    assert (job.stdout + job.stderr).count(said) == 1, job.stdout + job.stderr
    if "--plan" not in options:
        assert re.search(r"exitcode\s*: 2 ", job.stderr)


@pytest.mark.slow
def test_a_preparation_that_one_process_cannot_begin_ends_in_words(tmp_path: Path) -> None:
    """The leading process finds no such autoencoder, which the other one waits for."""
    images = picture_folder(tmp_path / "images", each=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "anyres", "prepare", str(images), "--out", str(tmp_path / "data"), "--autoencoder", "nonesuch"]
    job = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert job.stderr.count("nothing is named 'nonesuch'") == 1
    assert "anyres/cli.py" not in job.stderr, "a traceback"
    assert not (tmp_path / "data").exists()


def wait_until(condition: Callable[[], bool], job: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def worker(parent: int, rank: int) -> int:
    """The process of a rank, as its environment says."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            if is_child and f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:  # it has ended in the meantime
            continue
    raise AssertionError("no such process")
