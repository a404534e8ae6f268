"""`anyres train`: from a recipe's name, a dataset and options to a configuration."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import ConfigError
from ..latents.format import LatentDataset
from ..train.config import TrainConfig
from ..train.loop import RunReport
from .builtin import RECIPES, recipe_named
from .summary import EXAMPLE_SUMMARY, DataSummary


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `anyres train`; the recipe's fields stand beside them."""

    recipe: str
    data: Path
    out: Path
    device: str
    config: TrainConfig


def options_parser(arguments: list[str]) -> Callable[..., TrainOptions]:
    """What the command line is parsed by: a recipe's defaults depend on the data, so both are looked up first.

    Raises:
        ConfigError: no recipe, or an unknown one.
        DataError: the dataset cannot be read.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--data", type=Path)
    peek.add_argument("--no-repa", "--no_repa", action="store_true")
    found, _ = peek.parse_known_args(arguments)
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not asks_help:
        raise ConfigError(
            "no recipe was given",
            wanted=f"one of {', '.join(RECIPES)}, first: anyres train RECIPE --data DATA --out RUN",
            fix="start with 'tutorial'",
        )
    recipe = recipe_named(name or "tutorial")
    summary = EXAMPLE_SUMMARY
    if found.data and not asks_help:
        summary = DataSummary.of(LatentDataset.open(found.data), repa=not found.no_repa)
    defaults = recipe(summary)

    def options(
        *,
        recipe: tyro.conf.Positional[str],
        data: Path,
        out: Path,
        repa: bool = True,
        device: str = "auto",
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
    ) -> TrainOptions:
        """The options; `repa` has gone into the defaults.

        Args:
            recipe: A recipe: tutorial or mini.
            data: A dataset, as `anyres prepare` writes it.
            out: The run's folder; an existing run is continued.
            repa: Align with the teacher whose features the dataset holds, where it does; --no-repa does not.
            device: auto, cpu, cuda, cuda:N or mps.
            config: The recipe's fields.
        """
        del repa
        return TrainOptions(recipe=recipe, data=data, out=out, device=device, config=config)

    return options


def report(finished: RunReport) -> str:
    """What is printed at the end."""
    progress = finished.progress
    lines = [
        f"{'stopped' if finished.signal else 'trained'}: {progress.step:,} steps, {progress.images:,} images, "
        f"{progress.tokens:,} tokens, epoch {progress.position.epoch}",
    ]
    if finished.shrunk:
        lines.append(f"shrunk:  {finished.shrunk:,} images that were longer than a pack")
    if finished.signal:
        lines.append("to continue, run the same command again")
    else:
        lines.append(f"to sample: anyres sample {finished.folder} --label NAME --size WIDTHxHEIGHT")
    return "\n".join(lines)
