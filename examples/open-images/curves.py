"""The losses of a training run by its steps, as a plot.

python examples/open-images/curves.py --run RUN --out FILE.png
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from anyres.cli import reporting_errors
from anyres.errors import DataError
from anyres.plotting import new_figure

WINDOW = 20  # lines of metrics that a point of the training loss averages


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plot the losses of a run."""

    run: Path
    """A training run's folder."""
    out: Path
    """The plot, .png or .svg."""


def main(options: Options) -> int:
    """Draw."""
    path = options.run / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{options.run} has no metrics.jsonl", wanted="a training run's folder", fix="check the path")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    figure, (axes,) = new_figure(1, 1, width=6, height=3.4)
    for kind, name in (
        ("train", f"training, mean of {WINDOW}, labels dropped"),
        ("held_out", "held out, averaged weights"),
    ):
        steps, losses = np.array([(line["step"], line["loss"]) for line in lines if line["kind"] == kind]).T
        if kind == "train":
            kernel = np.full(WINDOW, 1 / WINDOW)
            steps, losses = np.convolve(steps, kernel, "valid"), np.convolve(losses, kernel, "valid")
        axes.plot(steps, losses, "o-" if kind == "held_out" else "-", markersize=3, label=name)
    axes.set(xlabel="step", ylabel="loss", ylim=(0.3, 1.1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(reporting_errors("curves.py", lambda: main(tyro.cli(Options))))
