"""A trainer on a GPU that is killed at random instants ends inside the spread of undisturbed runs."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from anyres.train import checkpoint
from tests.made import dataset
from tests.train.test_run import last_state, losses

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

KILLS, STEPS = 3, 600
ALLOWED = 90  # seconds for a process


def command(data: Path, out: Path) -> list[str]:
    options = f"--data {data} --out {out} --device cuda --steps {STEPS} --checkpoint-every 40 --held-out.share 0"
    options += " --model.hidden-size 96 --model.num-heads 2 --model.depth 2 --packing.budget 128 --log-every 100"
    options += " --pictures.every 0 --optimizer.learning-rate 3e-4"
    return [sys.executable, "-m", "anyres", "train", "tutorial", *options.split()]


def test_killed_it_ends_inside_the_spread_of_undisturbed_runs(tmp_path: Path) -> None:
    """Two undisturbed runs differ by the order of a GPU's sums; a killed one differs from them by no more than that."""
    data, chance = dataset(tmp_path, multiple_of_cells=2), random.Random(0)
    runs = [tmp_path / name for name in ("one", "other", "killed")]
    whole = [subprocess.Popen(command(data, out)) for out in runs[:2]]
    kills = 0
    for attempt in range(3 * KILLS):
        before = newest(runs[2])
        job = subprocess.Popen(command(data, runs[2]))
        deadline = time.monotonic() + ALLOWED
        while job.poll() is None and newest(runs[2]) <= before and time.monotonic() < deadline:
            time.sleep(0.02)  # until it has got further
        time.sleep(chance.uniform(0, 0.3))
        if job.poll() is None:
            os.kill(job.pid, signal.SIGKILL)
            kills += 1
        job.wait()
        assert newest(runs[2]) >= before, attempt
        if kills == KILLS or newest(runs[2]) == STEPS:
            break
    assert kills > 1
    subprocess.run(command(data, runs[2]), check=True, timeout=ALLOWED)
    assert [job.wait(ALLOWED) for job in whole] == [0, 0]
    one, other, killed = (vector(out) for out in runs)
    spread = float((one - other).norm())
    # where a GPU happens to add up alike there is no spread at all
    assert float((killed - one).norm()) <= 3 * spread + 1e-6 * float(one.norm())
    found = [losses(out) for out in runs]
    assert list(found[0]) == list(found[2])
    for step in found[0]:
        apart = abs(found[0][step] - found[1][step])
        assert abs(found[2][step] - found[0][step]) <= 3 * apart + 0.01 * found[0][step], step


def newest(run: Path) -> int:
    found = checkpoint.saved(run / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def vector(run: Path) -> torch.Tensor:
    """All weights of the exported model."""
    return torch.cat([weight.flatten().float() for weight in last_state(run).values()])
