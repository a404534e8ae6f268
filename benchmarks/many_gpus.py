"""Training on 1, 2, 4, … GPUs: speed, balance, checkpoints, and going on on another number of them.

    python -m benchmarks many_gpus [--gpus 1 2 4 8] [--preset xl] [--tokens 16384] [--repeats 24] [--tiny] [--out FILE]

Starts the processes itself. A step is one full pack a GPU, as the trainer's loader makes them from latents in memory,
of lengths like those of the paper's three variants (`packing.py`), 64 to 4,096 tokens. Scaling is the rate on n GPUs
over n times that on the fewest. Then, with as many packs a step as there are GPUs: a checkpoint is written while
training goes on; one is continued on two GPUs (of two: on one), and what comes of that on all of them, beside the run
that was never stopped. `--tiny` does all of it with a small network, on a CPU too.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from anyres.devices import pick_device
from anyres.latents.autoencoder import LatentScaling
from anyres.model.config import PRESETS, NiTConfig
from anyres.packing.loader import PackLoader
from anyres.ranks import Ranks
from anyres.tables import aligned
from anyres.train import checkpoint
from anyres.train.checkpoint import Checkpoints
from anyres.train.config import TrainConfig
from anyres.train.distributed import local, team_of
from anyres.train.graphs import records
from anyres.train.loop import advanced, drawn_packs
from anyres.train.metrics import peak_flops
from anyres.train.state import TrainState
from anyres.train.step import backward, update

from .packing import mixes
from .recording import device_name, record_of_device
from .training import train_config

WARM_UP = 6  # steps: kernels are compiled, the step is recorded, connections are made
GONE_ON = 4  # steps of each part of the run that changes its number of GPUs


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a number of processes does together.

    Attributes:
        count: how many.
        parallel: "ddp" or "fsdp".
        parts: in this order: "speed", "saving", "start", "continue".
        packs_per_step: a multiple of `count`.
    """

    count: int
    parallel: str
    parts: tuple[str, ...]
    packs_per_step: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all jobs share.

    Attributes:
        model: the network.
        tokens: room of a pack.
        repeats: timed steps.
        device: "auto", "cpu" or "cuda".
        folder: for checkpoints.
    """

    model: NiTConfig
    tokens: int
    repeats: int
    device: str
    folder: Path

    def config(self, job: Job) -> TrainConfig:
        """The job's run."""
        changes: Any = {"model": self.model, "parallel": job.parallel, "packs_per_step": job.packs_per_step}
        return dataclasses.replace(train_config("xl", self.tokens), **changes)


class MadeLatents:
    """A dataset in memory; each image is a slice of the same numbers."""

    def __init__(self, channels: int, budget: int) -> None:
        rng = np.random.default_rng(0)
        lengths = mixes(60_000, rng)["three variants"].clip(min(64, budget // 8), min(4096, budget // 2))
        self.cells = np.stack([lengths, np.ones_like(lengths)], axis=1)
        self.labels = rng.integers(0, 2, len(lengths))
        self.sources = ["made"] * len(lengths)
        self.scaling = LatentScaling.uniform(channels, factor=1.0)
        self._values = torch.randn(4 * budget, channels, generator=torch.Generator().manual_seed(0)).half()

    def lengths(self, patch: int) -> np.ndarray:
        """Tokens of each row."""
        return self.cells.prod(axis=1) // patch**2

    def views(self, indices: np.ndarray, flipped: np.ndarray) -> list[torch.Tensor]:
        """The latents of rows."""
        starts = 7 * indices % len(self._values) // 2 + flipped
        ends = starts + self.cells[indices, 0]
        return [self._values[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", help="numbers of GPUs; by default 1, 2, 4, … of those here")
    parser.add_argument("--preset", default="xl", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=16384, help="room of a pack")
    parser.add_argument("--repeats", type=int, default=24, help="timed steps")
    parser.add_argument("--tiny", action="store_true", help="a small network and small packs, on one process and two")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    there = torch.cuda.device_count() if device.type == "cuda" else 2
    counts = sorted(options.gpus or [1 << power for power in range(there.bit_length())])
    if options.tiny:
        model = NiTConfig(channels=4, hidden_size=48, depth=2, num_heads=2, num_classes=2)
        options.tokens, options.repeats = 256, 3
    else:
        model = NiTConfig.preset(options.preset, num_classes=1000)
    name = "tiny" if options.tiny else options.preset
    print(f"{device_name(device)}, torch {torch.__version__}; {name}, packs of {options.tokens} tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            model=model, tokens=options.tokens, repeats=options.repeats, device=options.device, folder=Path(folder)
        )
        results = {"network": name, "tokens": options.tokens, "repeats": options.repeats} | measured(plan, counts)
    record_of_device(options.out, "many_gpus", device, results)


def measured(plan: Plan, counts: list[int]) -> dict[str, Any]:
    """All jobs, one after another; each is printed as it is done."""
    most = counts[-1]
    few = 2 if most > 2 else 1
    speeds, saving = [], []

    undisturbed: list[float] = []
    kinds = [(count, parallel) for count in counts for parallel in (("ddp", "fsdp") if count > 1 else ("ddp",))]
    for count, parallel in kinds:
        parts = ["speed"]
        if count == most:
            parts += ["saving"]
        if (count, parallel) == kinds[-1]:
            parts += ["start"]
        found = launched(Job(count=count, parallel=parallel, parts=tuple(parts), packs_per_step=count), plan)
        what = {"gpus": count, "parallel": parallel if count > 1 else "alone"}
        speeds.append(what | found["speed"])
        print(said(speeds), flush=True)
        if "saving" in found:
            saving.append(what | found["saving"])
            print(f"a checkpoint: {saving[-1]}", flush=True)
        undisturbed = found.get("start", undisturbed)
    gone_on: list[float] = []
    for count in (few, most):
        job = Job(count=count, parallel="ddp", parts=("continue",), packs_per_step=most)
        gone_on += launched(job, plan)["continue"]
    differences = [abs(one - other) / other for one, other in zip(gone_on, undisturbed, strict=True)]
    resumed = {"gpus": [most, few, most], "losses": gone_on, "undisturbed": undisturbed, "differ": max(differences)}
    print(f"{most} → {few} → {most} GPUs: losses differ by {max(differences):.2%} at most", flush=True)
    return {"speed": speeds, "saving": saving, "resumed": resumed}


def said(speeds: list[dict[str, Any]]) -> str:
    """The last speed, beside the first, which is that on the fewest GPUs."""
    found, alone = speeds[-1], speeds[0]
    found["scaling"] = found["tokens_a_second"] / found["gpus"] / (alone["tokens_a_second"] / alone["gpus"])
    figures = [f"{found['ms']:.1f} ms a step", f"{found['tokens_a_second']:,.0f} tokens/s", f"{found['scaling']:.1%}"]
    figures += [f"MFU {found['mfu']:.1%}"] if "mfu" in found else []
    figures += [f"{found['peak_gib']:.1f} GiB"] if "peak_gib" in found else []
    figures += [f"costliest process {found['imbalance']:.2%} over the mean", f"recorded: {found['recorded']}"]
    return aligned([(f"{found['gpus']} x {found['parallel']}", *figures)])


def launched(job: Job, plan: Plan) -> dict[str, Any]:
    """What the job's processes found; of times, the longest."""
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.count,
        run_id="many-gpus",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    each = list(elastic_launch(launch, work)(job, plan).values())
    found = each[0]
    if "speed" in found:
        found["speed"] = summary([one["speed"] for one in each], job.count)
    if "saving" in found:
        for name in ("blocked_ms", "ms_while_writing"):
            found["saving"][name] = max(one["saving"][name] for one in each)
    return found


def summary(each: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Of all processes' speeds."""
    found = {**each[0], "ms": max(one["ms"] for one in each)}
    found["tokens_a_second"] = 1000 * found["tokens"] / found["ms"] / found["steps"]
    costs = np.array([one.pop("costs") for one in each])  # (processes, steps)
    found["imbalance"] = float((costs.max(axis=0) / costs.mean(axis=0) - 1).mean())
    if peak := peak_flops(found["device"]):
        found["mfu"] = 3 * float(costs.sum()) / found["steps"] / (found["ms"] / 1000) / peak / count
    return found


def work(job: Job, plan: Plan) -> dict[str, Any]:
    """One process's part of a job."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.count))
    ranks = Ranks.from_environment()
    device = pick_device(ranks.device(plan.device))
    config = plan.config(job)
    made: Any = MadeLatents(config.model.channels, plan.tokens)  # all of a dataset that the loader asks for
    loader = PackLoader(
        made,
        rows=np.arange(len(made.cells)),
        patch=1,
        packing=config.packing,
        seed=config.seed,
        one_shape=records(config, device),
    )
    found: dict[str, Any] = {}
    with team_of(config, ranks, device) as team:
        state = TrainState.create(config, device, team)
        randomise(state)
        saved = Checkpoints(plan.folder / "checkpoints", team, keep=1)
        with closing(saved):
            if "continue" in job.parts:
                checkpoint.restore(plan.folder / "checkpoints", state)
            with closing(steps(state, loader, config)) as running:
                if "speed" in job.parts:
                    found["speed"] = speed_of(running, state, plan.repeats)
                if "saving" in job.parts:
                    found["saving"] = saving_of(running, state, plan, found["speed"]["ms"])
                if "start" in job.parts:
                    saved.save(state)
                    saved.settle()
                    found["start"] = losses_of(running, 2 * GONE_ON)
                if "continue" in job.parts:
                    found["continue"] = losses_of(running, GONE_ON)
                    saved.save(state)
                    saved.settle()
        state.release()
    return found


@dataclass(frozen=True, kw_only=True)
class Step:
    """Of one: its loss, on the device; tokens of all processes; operations of this one's forward pass."""

    loss: torch.Tensor
    tokens: int
    cost: float


def steps(state: TrainState, loader: PackLoader, config: TrainConfig) -> Iterator[Step]:
    """Train without end."""
    with closing(drawn_packs(config, state, loader)) as packs:
        while True:
            lengths = loader.lengths_of(state.progress.position, config.packs_per_step)
            mine = list(islice(packs, config.packs_per_step // state.team.size))
            loss = backward(state, mine, config, lengths=lengths)
            outcome = update(state, loss, config)
            state.progress = advanced(state.progress, lengths, config, loader)
            own = np.array([grid.tokens for pack in mine for grid in pack.layout.grids])
            cost = float(config.model.image_flops(own).sum())
            yield Step(loss=outcome.loss.total, tokens=int(lengths.sum()), cost=cost)


@torch.no_grad()
def randomise(state: TrainState) -> None:
    """Give weights that begin at zero others: products of zeros take less power, and so less time."""
    generator = torch.Generator().manual_seed(0)
    for weight, average in zip(state.model.parameters(), state.average.parameters(), strict=True):
        part = local(weight)
        if part.numel() and not part.any():
            part.copy_(0.02 * torch.randn(part.shape, generator=generator))
        local(average).copy_(part)
    state.update.refresh()


def speed_of(running: Iterator[Step], state: TrainState, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step after the warm-up."""
    for _ in islice(running, WARM_UP):
        pass
    together(state)
    start = time.perf_counter()
    done = list(islice(running, repeats))
    synchronize(state)
    device = state.model.device
    found = {
        "ms": 1000 * (time.perf_counter() - start) / repeats,
        "steps": repeats,
        "tokens": sum(step.tokens for step in done),
        "costs": [step.cost for step in done],
        "recorded": state.graphed is not None,
        "update": type(state.update).__name__,
        "device": device_name(device),
    }
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def saving_of(running: Iterator[Step], state: TrainState, plan: Plan, ms: float) -> dict[str, Any]:
    """A checkpoint, written while as many steps are made as are timed, each waited for."""
    with closing(Checkpoints(plan.folder / "saving", state.team, keep=1)) as checkpoints:
        together(state)
        start = time.perf_counter()
        target = checkpoints.save(state)
        blocked, written, during = time.perf_counter() - start, None, []
        for _ in range(plan.repeats):
            before = time.perf_counter()
            next(running)
            synchronize(state)
            if written is None:
                during.append(time.perf_counter() - before)
                written = time.perf_counter() - start if target.is_dir() else None
        checkpoints.settle()
        written = written or time.perf_counter() - start
    state.team.wait()
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return {
        "blocked_ms": 1000 * blocked,
        "seconds": written,
        "gib": size / 2**30,
        "ms_while_writing": 1000 * float(np.mean(during)),
        "ms_else": ms,
        "steps_while_writing": len(during),
    }


def losses_of(running: Iterator[Step], count: int) -> list[float]:
    """Of the next steps."""
    return [float(step.loss) for step in islice(running, count)]


def together(state: TrainState) -> None:
    """Until all processes and their devices are here."""
    synchronize(state)
    state.team.wait()


def synchronize(state: TrainState) -> None:
    """Wait for the device."""
    if state.model.device.type == "cuda":
        torch.cuda.synchronize(state.model.device)
