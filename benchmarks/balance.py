"""How sizes are balanced: equal models but for how often images are drawn, how they weigh, and their times.

    anyres prepare IMAGES --out DATA --variants native square-256 --max-side 512 ...
    python -m benchmarks balance DATA --runs RUNS [--images IMAGES] [--seeds N] [--steps N] [--together N] [--out FILE]

Two models of a seed have the same initial weights, and all see as many packs of as many tokens. Reported, of the
averaged weights: the mean-square part of the loss of every held-out version at times that are equal for all, and with
`--images` the KID of samples at several sizes against these. Started again, it goes on where it was. `balance_plots`
draws what is reported.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from anyres.config import require
from anyres.files import make_folder, read_json, write_json
from anyres.flow.time import TimeShift
from anyres.latents.format import LatentDataset
from anyres.packing.draws import DrawsConfig
from anyres.recipes.builtin import recipe_named
from anyres.recipes.summary import DataSummary
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig

from .recording import RESULTS, record

BASE_TOKENS = 256  # whose times stay
CURVE = 6  # measurements of the held-out loss while a model trains


def drawn(**draws: float) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, packing=replace(config.packing, draws=DrawsConfig(**draws)))


def weighed(power: float) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, loss_tokens_power=power)


def shifted(power: float) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, time=replace(config.time, shift=TimeShift(power=power, base=BASE_TOKENS)))


ARMS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "by token": lambda config: config,
    "loss by root": weighed(0.5),
    "loss by image": weighed(0.0),
    "draws by root": drawn(tokens_power=-0.5),
    "draws by token": drawn(tokens_power=-1.0),
    "native only": drawn(square_256=0.0, square_512=0.0),
    "times shifted": shifted(0.5),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to train and to measure."""

    run: Path
    arm: str
    seed: int
    data: Path
    recipe: str
    steps: int
    budget: int
    held_out: float
    real: Path | None
    count: int
    device: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--recipe", default="tutorial")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--budget", type=int, default=8192)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "balance.json")
    options = parser.parse_args()
    unknown = [arm for arm in options.arms if arm not in ARMS]
    require(not unknown, f"arms {', '.join(unknown)}", f"some of {', '.join(ARMS)}")
    dataset = LatentDataset.open(options.data)
    make_folder(options.runs)
    real = None
    if options.images is not None:
        from .balance_measures import real_features

        real = make_folder(options.runs / "real")
        if not any(real.iterdir()):
            real_features(options.images, real, options.device)
    jobs = [
        Job(
            run=options.runs / f"{arm.replace(' ', '-')}-{seed}",
            arm=arm,
            seed=seed,
            real=real,
            **{
                name: getattr(options, name)
                for name in ("data", "recipe", "steps", "budget", "held_out", "count", "device")
            },
        )
        for seed, arm in product(range(options.seeds), options.arms)
    ]
    lengths = dataset.lengths(config_of(jobs[0], dataset).model.patch_size)
    versions = [
        {"image": dataset.content_hashes[row][:12], "variant": dataset.variants[row], "tokens": int(lengths[row])}
        for row in dataset.held_out(options.held_out).nonzero()[0].tolist()
    ]
    about = {name: getattr(options, name) for name in ("recipe", "steps", "budget", "held_out", "count")}
    runs = []
    # a worker trains one model after another: it has imported and compiled once
    with ProcessPoolExecutor(options.together, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(trained_and_measured, jobs):
            runs.append(found)
            record(options.out, {**about, "runs": runs, "versions": versions})


def config_of(job: Job, dataset: LatentDataset) -> TrainConfig:
    """The recipe with what a job changes."""
    config = recipe_named(job.recipe)(DataSummary.of(dataset))
    config = replace(
        config,
        steps=job.steps,
        seed=job.seed,
        packing=replace(config.packing, budget=job.budget),
        held_out=HeldOutConfig(share=job.held_out, every=max(1, job.steps // CURVE)),
        pictures=PicturesConfig(every=0),
        checkpoint_every=job.steps,
        log_every=max(1, job.steps // 20),
    )
    return ARMS[job.arm](config)


def trained_and_measured(job: Job) -> dict[str, Any]:
    """A model's training and measurements; what is kept of an earlier start is not done again."""
    losses, kid = (kept(job.run / name, made, job) for name, made in (("measured.json", trained), ("kid.json", kid_of)))
    return losses | {"kid": kid}


def kept(file: Path, made: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    """What the file holds, or what is made and written to it; nothing is kept of nothing."""
    if file.is_file():
        return read_json(file)
    found = made(job)
    if found:
        write_json(file, found)
    return found


def trained(job: Job) -> dict[str, Any]:
    """Train a model, and measure its losses."""
    from anyres.train.loop import train

    from .balance_measures import held_out_losses

    start, dataset = time.perf_counter(), LatentDataset.open(job.data)
    config = config_of(job, dataset)
    report = train(config, job.data, job.run, device=job.device)
    if report.stopped:
        sys.exit(f"{job.arm}, seed {job.seed}: stopped at step {report.progress.step}")
    seconds = time.perf_counter() - start
    print(f"{job.arm}, seed {job.seed}: {job.steps} steps in {seconds:.0f} s", flush=True)
    logged = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    return {
        "arm": job.arm,
        "seed": job.seed,
        "images": report.progress.images,
        "tokens": report.progress.tokens,
        "seconds": round(seconds, 1),
        "held_out_as_trained": [[r["step"], r["loss_flow"]] for r in logged if r["kind"] == "held_out"],
        "seconds_per_step": [r["seconds_per_step"] for r in logged if r["kind"] == "train"][-1],
        "losses": held_out_losses(job.run / "model", dataset, config, job.held_out, job.device),
    }


def kid_of(job: Job) -> dict[str, Any]:
    """The model's KID by size; none without real images."""
    from .balance_measures import kids

    return {} if job.real is None else kids(job.run / "model", job.real, job.count, job.device)
