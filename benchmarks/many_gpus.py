"""The published step on 1, 2, 4, … GPUs: speed, balance, checkpoints, going on on another number, sampling.

    python -m benchmarks many_gpus [--gpus 1 2 4 8] [--parts weak sampling step saving resumed] [--preset xl]
        [--tokens 16384] [--packs 96] [--packs-per-step 8] [--tiny] [--out FILE]

Starts the processes itself, one a GPU, without torchrun. Packs are made by the trainer's loader from latents in memory,
of lengths like those of the paper's three variants (`packing.py`), 64 to 4,096 tokens; every number of GPUs trains on
the same. Scaling is the rate on n GPUs over n times that on the fewest.

weak: one pack a GPU and step, by DDP and FSDP2. sampling: the same packs of mixed sizes shared among the GPUs; their
latents are compared with one GPU's. step: 131,072 tokens a step in eight packs, which one GPU adds up. saving: a
checkpoint of that run on all GPUs, written while it goes on. resumed: the checkpoint of DDP's continued on two GPUs (of
two: on one), and what comes of that on all of them, beside the losses of the run that went on.

Each part is said and recorded as it ends. What fails is said, and the rest goes on. `--tiny` does all of it with a
small network, on a CPU too.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from anyres.config import require
from anyres.devices import pick_device
from anyres.model.config import PRESETS, NiTConfig
from anyres.ranks import Ranks
from anyres.train.distributed import team_of

from . import many_gpus_sampling, many_gpus_training
from .many_gpus_plan import PARTS, Job, Plan
from .many_gpus_training import training
from .recording import RESULTS, device_name
from .released import CLASSES

SIZES = ("256x256", "512x256", "512x512", "1024x1024")
TINY = NiTConfig(channels=4, hidden_size=48, depth=2, num_heads=2, num_classes=CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", help="numbers of GPUs; by default 1, 2, 4, … of those here")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--preset", default="xl", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=16384, help="room of a pack")
    parser.add_argument("--packs", type=int, default=96, help="timed packs, whatever the number of GPUs")
    parser.add_argument("--packs-per-step", type=int, default=8, help="of the published step")
    parser.add_argument("--tiny", action="store_true", help="a small network and small packs, on one process and two")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    sizes, sampled, warm_up, model = SIZES, 8, 24, TINY
    if options.tiny:
        options.tokens, options.packs, options.packs_per_step, warm_up = 256, 4, 4, 4
        sizes, sampled = ("64x64", "128x128", "256x128"), 4
    else:
        model = NiTConfig.preset(options.preset, num_classes=CLASSES)
    counts = numbers_of_gpus(options, device)
    name = "tiny" if options.tiny else options.preset
    print(f"{device_name(device)}, torch {torch.__version__}; {name}, packs of {options.tokens} tokens", flush=True)
    out = options.out or (RESULTS / "many_gpus.json" if device.type == "cuda" else None)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            model=model,
            tokens=options.tokens,
            packs=options.packs,
            warm_up=warm_up,
            packs_per_step=options.packs_per_step,
            sizes=sizes,
            sampled=sampled,
            device=options.device,
            folder=Path(folder),
            out=out,
            about={"network": name, "tokens": options.tokens},
            began=time.time(),
        )
        whole = [launched(job, plan) for job in jobs(counts, options.parts)]
    if out is None:
        print("CPU, dry run: nothing recorded")
    if not all(whole):
        sys.exit(1)


def numbers_of_gpus(options: argparse.Namespace, device: torch.device) -> list[int]:
    """Those that are asked for, or all that divide the step.

    Raises:
        ConfigError: there are not so many, or they cannot share the step's packs equally.
    """
    of_step, on_gpu = options.packs_per_step, device.type == "cuda"
    there = torch.cuda.device_count() if on_gpu else 2
    counts = sorted(set(options.gpus or [1 << power for power in range(min(there, of_step).bit_length())]))
    require(not on_gpu or counts[-1] <= there, f"{counts[-1]} GPUs", f"at most the {there} that are here")
    alone = "resumed" in options.parts and "saving" not in options.parts
    require(not alone, "--parts resumed without saving", "a checkpoint to continue from", "add saving")
    uneven = [count for count in counts if count < 1 or of_step % count]
    require(
        not uneven,
        f"--gpus {' '.join(map(str, uneven))}",
        f"divisors of the step's {of_step} packs",
        "set --packs-per-step",
    )
    require(
        options.packs > 0 and options.packs % of_step == 0,
        f"--packs {options.packs}",
        f"a multiple of the {of_step} packs of a step",
    )
    return counts


def jobs(counts: list[int], parts: tuple[str, ...]) -> list[Job]:
    """What is started, in this order."""
    most = counts[-1]
    alike = {
        count: tuple(part for part in parts if part != "resumed" and (part != "saving" or count == most))
        for count in counts
    }
    made = [Job(count=count, parts=those) for count, those in alike.items() if those]
    if "resumed" in parts:
        made += [Job(count=count, parts=("resumed",)) for count in (2 if most > 2 else 1, most)]
    return made


def launched(job: Job, plan: Plan) -> bool:
    """Whether all processes of the job have ended well."""
    # a process that has imported all forks them: importing takes longer than many a part
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo", "einops._torch_specific"])
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.count,
        run_id="many-gpus",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="forkserver",
    )
    if "resumed" in job.parts and not (plan.folder / "undisturbed.json").exists():
        return False  # its checkpoint has failed, which is said
    try:
        elastic_launch(launch, work)(job, plan)
    except SignalException as error:  # the processes have been ended; what is done is kept
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        told: Any = failure.error_file_data.get("message", failure.message)
        message = told["message"] if isinstance(told, dict) else str(told)
        what: dict[str, Any] = {"gpus": job.count, "parts": job.parts, "message": message}
        plan.add("failed", what, f"{job.count} GPUs, {' '.join(job.parts)}: {message}")
        return False
    return True


def work(job: Job, plan: Plan) -> None:
    """One process's part of a job."""
    torch.set_num_threads(1)  # as torchrun does
    ranks = Ranks.from_environment()
    kinds = ("ddp", "fsdp") if ranks.world > 1 else ("alone",)
    device = pick_device(ranks.device(plan.device))
    with team_of(plan.config(kinds[0], plan.packs_per_step), ranks, device) as team:
        if "weak" in job.parts:
            for parallel in kinds:
                with training(plan, team, parallel, team.size) as run:
                    many_gpus_training.speed(run, plan, "weak")
        if "sampling" in job.parts:
            many_gpus_sampling.sampling(plan, team)
        for parallel in kinds if {"step", "saving"} & set(job.parts) else ():
            with training(plan, team, parallel, plan.packs_per_step) as run:
                if "step" in job.parts:
                    many_gpus_training.speed(run, plan, "step")
                if "saving" in job.parts:
                    many_gpus_training.saving(run, plan)
        if "resumed" in job.parts:
            with training(plan, team, kinds[0], plan.packs_per_step, goes_on=True) as run:
                many_gpus_training.resuming(run, plan)
