"""An evaluation at each combination of some settings of the sampler, sizes among them."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import require, suggestion
from ..errors import ConfigError
from ..files import make_folder
from ..grid import Size
from .evaluation import evaluate
from .options import EvaluateOptions
from .page import sweep_page
from .plots import sweep_plots
from .report import PAGE, REFERENCE
from .results import Column, Evaluation, Point, Sweep
from .stored import write_text, write_versioned
from .subject import Subject, require_model

SWEEP = "sweep.json"
POINTS = 200  # more are a mistake


def sweep(options: EvaluateOptions, subject: Subject) -> Sweep | None:
    """Evaluate a model at each combination, and write sweep.json, report.html and plots; what is there is kept.

    Raises:
        ConfigError: images instead of a model, an unknown setting, or a value that is none.
        AnyResError: as an evaluation raises it.
    """
    require_model(subject, "a sweep")
    axes = read_axes(options.sweep)
    combinations = list(itertools.product(*axes.values()))
    require(len(combinations) <= POINTS, f"{len(combinations)} combinations", f"at most {POINTS}", "sweep less")
    chosen = [_at(options, dict(zip(axes, values, strict=True))) for values in combinations]
    for point in chosen:  # a wrong value is found before hours of sampling
        subject.settings(point)
        subject.framing(point)
    points: list[Point] = []
    seconds: list[float | None] = []
    held_out: dict[str, Column] = {}
    found: Evaluation | None = None
    for point, values in zip(chosen, combinations, strict=True):
        start, whole = time.monotonic(), (point.out / PAGE).is_file()
        framing = subject.framing(point)
        place = options.out / REFERENCE / (str(framing.size) if framing and framing.size else "own-sizes")
        found = evaluate(point, subject, references=place)
        if found is not None:
            settings = dict(zip(axes, values, strict=True))
            real = next(column for column in found.controls if column.name == "held-out")
            held_out[found.framing] = replace(real, name=place.name)
            folder = str(point.out.relative_to(options.out))
            points.append(Point(settings=settings, figures=found.figures, folder=folder, reference=place.name))
            seconds.append(None if whole else time.monotonic() - start)
    if found is None:
        return None
    result = Sweep(
        axes=axes,
        points=tuple(points),
        held_out=tuple(held_out.values()),
        network=found.network,
        headline=found.headline,
        seconds=tuple(seconds),
    )
    _write(options.out, result)
    return result


def read_axes(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The swept settings and their values, from texts such as "steps=10,50".

    Raises:
        ConfigError: another form, an unknown setting, or one twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        found = tuple(value.strip() for value in values.split(",") if value.strip())
        require(
            name in _READ,
            f"--sweep {text!r}",
            f"one of {', '.join(_READ)}, then = and values with commas, such as guidance=1,2,4",
            suggestion(name, _READ) or "write it in that form",
        )
        require(bool(found), f"--sweep {text!r}", "values with commas, such as guidance=1,2,4", "add values")
        require(name not in axes and len(set(found)) == len(found), f"{name} twice", "each once", "leave one out")
        axes[name] = found
    return axes


def _at(options: EvaluateOptions, values: dict[str, str]) -> EvaluateOptions:
    """The options at a point."""
    given: dict[str, Any] = {}
    for name, text in values.items():
        try:
            given[name] = _READ[name](text)
        except ValueError:
            example = _EXAMPLES.get(name, "a number")
            raise ConfigError(f"{name} = {text!r} in --sweep", wanted=example, fix="write it in that form") from None
    folder = ",".join(f"{name}={text}" for name, text in values.items()).replace("/", "-").replace(":", "-")
    return replace(options, **given, out=options.out / "points" / folder, sweep=())


def _interval(text: str) -> tuple[float, float]:
    low, high = text.split(":")
    return float(low), float(high)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_READ: dict[str, Callable[[str], Any]] = {
    "size": lambda text: str(Size.parse(text)),
    "guidance": float,
    "interval": _interval,
    "steps": int,
    "solver": str,
    "extrapolation": str,
    "decoupled": _truth,
    "preset": str,
}
_EXAMPLES = {"steps": "a whole number", "interval": "LOW:HIGH, such as 0:0.7", "decoupled": "true or false"}


def _write(folder: Path, result: Sweep) -> None:
    make_folder(folder)
    plots = sweep_plots(result)
    write_text(folder / PAGE, sweep_page(result, plots))
    write_versioned(folder / SWEEP, result)
