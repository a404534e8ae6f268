"""`anyres train`: from a recipe's name, a dataset and options to a configuration."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import tyro

from ..errors import ConfigError
from ..hub import built_in
from ..latents.features import TeacherInfo
from ..latents.format import LatentDataset
from ..networks.teacher import Teacher, load_teacher
from ..ranks import Ranks
from ..train.base import BaseModel
from ..train.config import TrainConfig
from ..train.folder import RunFolder
from ..train.loop import RunReport, train
from ..train.stopping import TIME_IS_UP, seconds_of
from . import finetune
from .builtin import RECIPES, recipe_named
from .planning import Resources, plan
from .summary import DataSummary, assumed_summary

NAMES = (*RECIPES, finetune.NAME)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `anyres train`; the recipe's fields stand beside them."""

    recipe: str
    data: Path
    out: Path
    device: str
    time_limit: str | None
    config: TrainConfig
    introduction: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """`anyres train --plan`: what it says."""

    text: str


def options_parser(arguments: list[str]) -> Callable[..., TrainOptions | PlanOptions]:
    """What the command line is parsed by: a recipe's defaults depend on the data, so both are looked up first.

    Raises:
        ConfigError: no recipe, or an unknown one.
        DataError: the dataset cannot be read.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--data", type=Path)
    peek.add_argument("--from", dest="base")
    peek.add_argument("--lora-rank", "--lora_rank", type=int, default=0)
    peek.add_argument("--no-repa", "--no_repa", action="store_true")
    peek.add_argument("--teacher.network", dest="network")
    peek.add_argument("--teacher.weights", dest="weights")
    found, _ = peek.parse_known_args(arguments)
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not asks_help:
        raise ConfigError(
            "no recipe was given",
            wanted=f"one of {', '.join(NAMES)}, first: anyres train RECIPE --data DATA --out RUN",
            fix="start with 'tutorial'",
        )
    if name != finetune.NAME:
        recipe_named(name or "tutorial")  # an unknown one is refused before anything is looked up
    dataset = LatentDataset.open(found.data) if found.data and not asks_help else None
    summary = DataSummary.of(dataset) if dataset else assumed_summary(name or "tutorial")
    if found.no_repa:
        summary = replace(summary, teacher=None)
    elif found.network and not asks_help:
        summary = replace(summary, teacher=_seeing(found.network, found.weights))
    base = _base(name, found.base, dataset, asks_help=asks_help)
    defaults = (
        finetune.finetune(summary, base, max(0, found.lora_rank)) if base else recipe_named(name or "tutorial")(summary)
    )

    def options(
        *,
        recipe: tyro.conf.Positional[str],
        from_: Annotated[str | None, tyro.conf.arg(name="from")] = None,
        data: Path | None = None,
        out: Path | None = None,
        repa: bool = True,
        device: str = "auto",
        time_limit: str | None = None,
        plan_only: Annotated[bool, tyro.conf.arg(name="plan")] = False,
        gpus: int = 1,
        price_per_gpu_hour: float | None = None,
        tokens_per_second: float | None = None,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
    ) -> TrainOptions | PlanOptions:
        """The options; `from_` and `repa` have gone into the defaults.

        Args:
            recipe: A recipe: tutorial, mini, finetune, or imagenet_s, _b, _l, _xl, _xxl.
            from_: Of finetune: the model that it begins from: a folder, a run, a model in the box or a hub id.
            data: A dataset, as `anyres prepare` writes it.
            out: The run's folder; an existing run is continued.
            repa: Align with the teacher whose features the dataset holds, where it does; --no-repa does not.
            device: auto, cpu, cuda, cuda:N or mps. Of --plan: what its speeds are for.
            time_limit: Save and end after this time, such as 23h30m, or minutes. Of --plan: how often to start it.
            plan_only: Say what the run would take in memory, time and money, and start nothing.
            gpus: Of --plan: how many.
            price_per_gpu_hour: Of --plan: the price of one of them.
            tokens_per_second: Of --plan: the speed of one of them; otherwise what is recorded of the network, if any.
            config: The recipe's fields.
        """
        del from_, repa
        if plan_only:
            resources = Resources(
                gpus=gpus,
                price_per_gpu_hour=price_per_gpu_hour,
                tokens_per_second=tokens_per_second,
                device=device,
                time_limit=None if time_limit is None else seconds_of(time_limit),
            )
            return PlanOptions(text=plan(recipe, config, summary, resources))
        if (gpus, price_per_gpu_hour, tokens_per_second) != (1, None, None):
            raise ConfigError(
                "--gpus, --price-per-gpu-hour or --tokens-per-second without --plan",
                wanted="them with --plan, which starts nothing",
                fix="add --plan, or leave them out",
            )
        if data is None or out is None:
            raise ConfigError(
                f"no {'--data' if data is None else '--out'} was given",
                wanted="both: anyres train RECIPE --data DATA --out RUN",
                fix="add it, or --plan to see what the run would take",
            )
        said = finetune.introduction(config, summary, base) if base else None
        return TrainOptions(
            recipe=recipe, data=data, out=out, device=device, time_limit=time_limit, config=config, introduction=said
        )

    return options


def _seeing(network: str, weights: str | None) -> TeacherInfo:
    """What a model is aligned with whose teacher sees the images: the projector's width follows from it."""
    device = torch.device("cpu")
    teacher = Teacher(load_teacher(network, device, weights), "float16", device)
    return TeacherInfo(identity=teacher.identity, dim=teacher.dim, cells=1, px=teacher.px, dtype="float16")


def _base(name: str | None, given: str | None, dataset: LatentDataset | None, *, asks_help: bool) -> BaseModel | None:
    """The model that `finetune` begins from, which has to fit the data; None of the other recipes."""
    if name != finetune.NAME:
        if given is not None:
            raise ConfigError(
                f"--from {given} with the recipe {name}, which begins with random weights",
                wanted=f"--from with the recipe {finetune.NAME}",
                fix=f"anyres train {finetune.NAME} --from {given} --data DATA --out RUN",
            )
        return None
    if given is None and not asks_help:
        known = built_in()
        raise ConfigError(
            "the recipe finetune without --from",
            wanted="the model that it begins from: a folder, a run, a model in the box or a hub id",
            fix=f"add --from MODEL, such as --from {known[0]}" if known else "add --from MODEL",
        )
    base = BaseModel.read(given or built_in()[0])
    if dataset is not None:
        finetune.check_fits(base, dataset)
    return base


def run(options: TrainOptions) -> RunReport:
    """Train.

    Raises:
        AnyResError: see `train`; or the time limit is no time.
    """
    limit = None if options.time_limit is None else seconds_of(options.time_limit)
    if options.introduction and Ranks.from_environment().rank == 0:
        print(options.introduction, flush=True)
    return train(options.config, options.data, options.out, device=options.device, time_limit=limit)


def exit_status(finished: RunReport) -> int:
    """0, 128 + the signal that stopped the run, or 75 where its time was up.

    Under torchrun 0 in the last case, too: it takes any other for a failure, and would start the processes again.
    """
    if finished.stopped == TIME_IS_UP:
        return 0 if dist.is_torchelastic_launched() else os.EX_TEMPFAIL
    return 128 + finished.stopped if finished.stopped else 0


def report(finished: RunReport) -> str:
    """What is printed at the end."""
    progress = finished.progress
    lines = [
        f"{'stopped' if finished.stopped else 'trained'}: {progress.step:,} steps, {progress.images:,} images, "
        f"{progress.tokens:,} tokens, epoch {progress.position.epoch}",
    ]
    if finished.shrunk:
        lines.append(f"shrunk:  {finished.shrunk:,} images that were longer than a pack")
    if finished.left_out:
        lines.append(f"left out: {finished.left_out:,} images of variants that --packing.draws never draws")
    if finished.best is not None:
        kept = RunFolder(finished.folder).best
        lines.append(
            f"overfits: the held-out loss was lowest at step {finished.best.step:,}"
            + (f", whose model is in {kept}" if kept.is_dir() else "")
        )
    if finished.stopped == TIME_IS_UP:
        lines.append("the time limit was reached")
    if finished.stopped:
        lines.append("to continue, run the same command again")
    else:
        lines.append(f"to sample: anyres sample {finished.folder} --label NAME --size WIDTHxHEIGHT")
    return "\n".join(lines)
