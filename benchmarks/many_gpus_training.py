"""Training in several processes: speed, balance, checkpoints, and what a continued run's losses are."""

import gc
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from anyres.files import read_json, write_json
from anyres.latents.autoencoder import LatentScaling
from anyres.packing.loader import PackLoader
from anyres.train import checkpoint
from anyres.train.checkpoint import Checkpoints
from anyres.train.config import TrainConfig
from anyres.train.distributed import Team, local
from anyres.train.graphs import records
from anyres.train.loop import advanced, drawn_packs
from anyres.train.metrics import peak_flops
from anyres.train.state import TrainState
from anyres.train.step import backward, update

from .many_gpus_plan import Plan
from .packing import mixes
from .profiling import Timeline, timeline
from .recording import device_name

T = TypeVar("T")
GONE_ON = 3  # steps of each part of the run that changes its number of GPUs
PLAIN = 4  # steps that are waited for one by one, before a checkpoint
LONGEST = 600  # steps in which a checkpoint should be written


class MadeLatents:
    """A dataset in memory; each image is a slice of the same numbers."""

    def __init__(self, channels: int, budget: int) -> None:
        rng = np.random.default_rng(0)
        lengths = mixes(30_000, rng)["three variants"].clip(min(64, budget // 8), min(4096, budget // 2))
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


@dataclass(frozen=True, kw_only=True)
class Step:
    """Of one: its loss, on the device; tokens of all processes; operations of this one's forward pass."""

    loss: torch.Tensor
    tokens: int
    cost: float


@dataclass(kw_only=True)
class Training:
    """A run in this process.

    Attributes:
        parallel: "alone", "ddp" or "fsdp".
        config: the run's.
        state: its state.
        steps: trains, without end.
    """

    parallel: str
    config: TrainConfig
    state: TrainState
    steps: Iterator[Step]

    @property
    def team(self) -> Team:
        """The processes."""
        return self.state.team


@contextmanager
def training(
    plan: Plan, team: Team, parallel: str, packs_per_step: int, *, goes_on: bool = False
) -> Iterator[Training]:
    """A run on made latents: warm, from random weights, or continued from the checkpoint in the plan's folder."""
    config = plan.config(parallel, packs_per_step)
    made: Any = MadeLatents(config.model.channels, plan.tokens)  # all of a dataset that the loader asks for
    loader = PackLoader(
        made,
        rows=np.arange(len(made.cells)),
        patch=1,
        packing=config.packing,
        seed=config.seed,
        one_shape=records(config, team.device),
    )
    with team.device:  # where 675M random numbers take no time
        state = TrainState.create(config, team.device, replace(team, sharded=parallel == "fsdp"))
    if goes_on:
        checkpoint.restore(plan.folder / "checkpoints", state)
    else:
        randomise(state)
    with closing(steps_of(state, loader, config)) as running:
        for _ in islice(running, 0 if goes_on else plan.warm_up // packs_per_step):
            pass
        run = Training(parallel=parallel, config=config, state=state, steps=running)
        yield run
    state.release()
    del run.state, run.steps, running, state  # who has the run may hold it until there is the next
    gc.collect()
    if team.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(team.device)


def steps_of(state: TrainState, loader: PackLoader, config: TrainConfig) -> Iterator[Step]:
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
    device = state.model.device
    generator = torch.Generator(device).manual_seed(0)
    for weight, average in zip(state.model.parameters(), state.average.parameters(), strict=True):
        part = local(weight)
        if part.numel() and not part.any():
            part.copy_(0.02 * torch.randn(part.shape, generator=generator, device=device))
        local(average).copy_(part)
    state.update.refresh()


def speed(run: Training, plan: Plan, part: str) -> None:
    """A step, on the same packs for every number of processes; of times, the longest."""
    team, of_step = run.team, run.config.packs_per_step
    together(team)
    start = time.perf_counter()
    done = list(islice(run.steps, plan.packs // of_step))
    synchronize(team)
    ms = max(gathered(team, 1000 * (time.perf_counter() - start) / len(done)))
    costs = np.array(gathered(team, [step.cost for step in done]))  # (processes, steps)
    device, tokens = device_name(team.device), sum(step.tokens for step in done)
    row: dict[str, Any] = {"gpus": team.size, "parallel": run.parallel, "packs_per_step": of_step}
    row |= {"ms": ms, "steps": len(done), "tokens": tokens, "tokens_a_second": 1000 * tokens / ms / len(done)}
    row["imbalance"] = float((costs.max(axis=0) / costs.mean(axis=0) - 1).mean())
    row["worst_imbalance"] = float((costs.max(axis=0) / costs.mean(axis=0) - 1).max())
    row |= {"recorded": run.state.graphed is not None, "update": type(run.state.update).__name__}
    if peak := peak_flops(device):
        row["mfu"] = 3000 * float(costs.sum()) / len(done) / ms / peak / team.size
    if team.device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(team.device) / 2**30
        # what a recording's passes fill is kept for it, but counts as allocated only while it is made
        row["reserved_gib"] = torch.cuda.max_memory_reserved(team.device) / 2**30
        row |= timeline(lambda: next(run.steps), team.device)
    if team.leads:
        alone = (plan.found().get(part) or [row])[0]
        row["scaling"] = row["tokens_a_second"] / row["gpus"] / (alone["tokens_a_second"] / alone["gpus"])
        plan.add(part, row, said(row))


def said(row: dict[str, Any]) -> str:
    """A speed in words."""
    figures = [f"{row['ms']:.1f} ms a step", f"{row['tokens_a_second']:,.0f} tokens/s", f"{row['scaling']:.1%}"]
    figures += [f"MFU {row['mfu']:.1%}"] if "mfu" in row else []
    figures += [f"{row['peak_gib']:.1f} GiB, {row['reserved_gib']:.1f} reserved"] if "peak_gib" in row else []
    figures += [f"costliest process {row['imbalance']:.2%} over the mean" + " (recorded)" * row["recorded"]]
    figures += [", ".join(f"{name} {row[name]:.1f}" for name in Timeline.__annotations__ if name in row)]
    return f"{row['gpus']} x {row['parallel']}: " + "; ".join(figure for figure in figures if figure)


def saving(run: Training, plan: Plan) -> None:
    """A checkpoint, written while training goes on; that of DDP is kept, with the losses of the steps after it."""
    team = run.team
    kept = run.parallel != "fsdp"
    folder = plan.folder / ("checkpoints" if kept else "sharded")
    losses: list[float] = []

    def one() -> float:
        before = time.perf_counter()
        losses.append(float(next(run.steps).loss))
        synchronize(team)
        return 1000 * (time.perf_counter() - before)

    together(team)
    plain = [one() for _ in range(PLAIN)]
    losses.clear()
    with closing(Checkpoints(folder, team, keep=1)) as checkpoints:
        together(team)
        start = time.perf_counter()
        target = checkpoints.save(run.state)
        blocked, during, written = time.perf_counter() - start, [], None
        while written is None and len(during) < LONGEST:
            during.append(one())
            # all have to make as many steps
            if any(gathered(team, team.leads and target.is_dir())):
                written = time.perf_counter() - start
        checkpoints.settle()
    while len(losses) < 2 * GONE_ON:
        one()
    team.wait()
    row: dict[str, Any] = {"gpus": team.size, "parallel": run.parallel}
    row["blocked_ms"], row["seconds"] = max(gathered(team, 1000 * blocked)), written
    row["gib"] = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 2**30
    row |= {"ms_before": float(np.mean(plain)), "ms_while_writing": float(np.mean(during)), "steps": len(during)}
    # what it costs in all: the wait, and what the steps beside it take longer
    row["cost_ms"] = row["blocked_ms"] + sum(during) - len(during) * row["ms_before"]
    team.wait()
    if not team.leads:
        return
    if kept:
        write_json(plan.folder / "undisturbed.json", losses[: 2 * GONE_ON])
    else:
        shutil.rmtree(folder)
    waits = f"the step waits {row['blocked_ms']:.0f} ms, then {row['steps']} take {row['ms_while_writing']:.1f} ms each"
    size = f"{row['gib']:.2f} GiB in {row['seconds'] or float('nan'):.1f} s"
    of_all = f"in place of {row['ms_before']:.1f}: {row['cost_ms']:.0f} ms in all"
    plan.add("saving", row, f"{row['gpus']} x {row['parallel']}: {size}; {waits} {of_all}")


def resuming(run: Training, plan: Plan) -> None:
    """The next steps of a continued run, and a checkpoint after them for the number of processes that comes next."""
    path = plan.folder / "gone_on.json"
    before = read_json(path) if path.is_file() else {"gpus": [], "losses": []}
    losses = [float(step.loss) for step in islice(run.steps, GONE_ON)]
    if not before["gpus"]:
        with closing(Checkpoints(plan.folder / "checkpoints", run.team, keep=1)) as checkpoints:
            checkpoints.save(run.state)
            checkpoints.settle()
    run.team.wait()  # all have read what is written now
    if not run.team.leads:
        return
    gone_on = {"gpus": [*before["gpus"], run.team.size], "losses": before["losses"] + losses}
    write_json(path, gone_on)
    undisturbed = read_json(plan.folder / "undisturbed.json")
    row = gone_on | {"packs_per_step": run.config.packs_per_step, "undisturbed": undisturbed}
    pairs = list(zip(gone_on["losses"], undisturbed, strict=False))
    row["furthest"] = max(abs(one - other) / other for one, other in pairs)
    path_of_run = " then ".join(str(count) for count in gone_on["gpus"])
    plan.add("resumed", row, f"continued on {path_of_run} GPUs: losses differ by {row['furthest']:.3%} at most")


def together(team: Team) -> None:
    """Until all processes and their devices are here."""
    synchronize(team)
    team.wait()


def synchronize(team: Team) -> None:
    """Wait for the device."""
    if team.device.type == "cuda":
        torch.cuda.synchronize(team.device)


def gathered(team: Team, value: T) -> list[T]:
    """Of each process."""
    values: list[Any] = [value] * team.size
    if team.size > 1:
        dist.all_gather_object(values, value, group=team.control)
    return values
