"""What `position_order` found, as plots and a table of differences with intervals.

    python -m benchmarks position_order_plots [RESULTS] --out FOLDER

An interval is of 95%: of a bootstrap over held-out images and, where several seeds are pooled, over seeds, too.
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from anyres.plotting import new_figure

from .recording import RESULTS

RIGHT, RELEASED = "row_major", "column_major"
NAMES = {RIGHT: "row-major (right)", RELEASED: "column-major (released)"}
COLOURS = {RIGHT: "tab:blue", RELEASED: "tab:red"}
DRAWS = 4000
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "square": lambda ratio: ratio == 1,
    "up to 3:2": lambda ratio: (ratio > 1) & (ratio <= 1.5),
    "beyond 3:2": lambda ratio: ratio > 1.5,
    "not square": lambda ratio: ratio > 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS / "position_order.json")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.results.read_text())["results"]
    options.out.mkdir(parents=True, exist_ok=True)
    losses = held_out(found)
    for row in losses:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    for size, each in differences_of_kid(found).items():
        print(size, each)
    figure, (left, middle, right) = new_figure(1, 3, width=4.6, height=3.8)
    draw_losses(left, losses)
    draw_ratios(middle, found)
    draw_kid(right, found)
    figure.savefig(options.out / "position-order.png")


def arms(found: dict[str, Any]) -> dict[str, list[int]]:
    """Columns of the losses, by order, in the order of the seeds."""
    of_order: dict[str, list[int]] = {RIGHT: [], RELEASED: []}
    for column, run in enumerate(found["runs"]):
        of_order[run["order"]].append(column)
    return of_order


def held_out(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The loss of either order on held-out versions by shape, and the released one's excess."""
    cells = np.array([image["cells"] for image in found["images"]])
    ratio = cells.max(axis=1) / cells.min(axis=1)
    losses = np.array([image["losses"] for image in found["images"]])
    _, image = np.unique([image["image"] for image in found["images"]], return_inverse=True)
    rows, of_order = [], arms(found)
    rng = np.random.default_rng(0)
    for name, belongs in SHAPES.items():
        chosen = belongs(ratio)
        right, released = losses[chosen][:, of_order[RIGHT]], losses[chosen][:, of_order[RELEASED]]
        excess = released.mean() / right.mean() - 1
        draws = []
        own = image[chosen]
        for _ in range(DRAWS):
            weight = np.bincount(rng.integers(image.max() + 1, size=image.max() + 1), minlength=image.max() + 1)[own]
            seeds = rng.integers(right.shape[1], size=right.shape[1])
            draws.append((weight @ released[:, seeds]).sum() / (weight @ right[:, seeds]).sum() - 1)
        low, high = np.percentile(draws, [2.5, 97.5])
        rows.append(
            {
                "shape": name,
                "versions": int(chosen.sum()),
                "images": len(set(own.tolist())),
                RIGHT: round(float(right.mean()), 4),
                RELEASED: round(float(released.mean()), 4),
                "excess": f"{excess:+.1%} [{low:+.1%}, {high:+.1%}]",
                "by seed": [f"{r:+.1%}" for r in (released.mean(axis=0) / right.mean(axis=0) - 1).tolist()],
            }
        )
    return rows


def differences_of_kid(found: dict[str, Any]) -> dict[str, str]:
    """Mean over seeds of released less right, with Student's interval over the seeds, which are few."""
    from scipy.stats import t

    of_order, result = arms(found), {}
    for size in found["sizes"]:
        values = {order: np.array([kid(found["runs"][c], size) for c in own]) for order, own in of_order.items()}
        difference = values[RELEASED] - values[RIGHT]
        half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
        means = "  ".join(f"{order} {value.mean():.4f}" for order, value in values.items())
        result[size] = f"{means}  difference {difference.mean():+.4f} ± {half:.4f}"
    return result


def kid(run: dict[str, Any], size: str) -> float:
    """KID of a run's samples at a size."""
    return run["kid"][size]["made"]["value"]


def draw_losses(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Losses by shape."""
    names = [row["shape"] for row in rows if row["shape"] != "not square"]
    for shift, order in ((-0.18, RIGHT), (0.18, RELEASED)):
        values = [row[order] for row in rows if row["shape"] != "not square"]
        axes.bar(np.arange(len(names)) + shift, values, 0.34, color=COLOURS[order], label=NAMES[order])
    axes.set_xticks(range(len(names)), names)
    axes.set(title="held-out loss, mean over seeds", ylabel="mean (v̂ − v)²", ylim=(0, 0.85))
    axes.legend(fontsize=8)


def draw_ratios(axes: Any, found: dict[str, Any]) -> None:
    """The released order's excess for every held-out version, by its shape."""
    cells = np.array([image["cells"] for image in found["images"]])
    shape = np.log2(cells[:, 1] / cells[:, 0])
    losses, of_order = np.array([image["losses"] for image in found["images"]]), arms(found)
    excess = losses[:, of_order[RELEASED]].mean(axis=1) / losses[:, of_order[RIGHT]].mean(axis=1) - 1
    axes.scatter(shape, 100 * excess, s=6, alpha=0.4, color="grey", linewidths=0)
    edges = np.linspace(-1.4, 1.4, 8)
    middles = [
        ((low + high) / 2, 100 * np.median(excess[inside]))
        for low, high in pairwise(edges.tolist())
        if (inside := (shape >= low) & (shape < high) & (shape != 0)).sum() >= 5
    ]
    axes.plot(*zip(*middles, strict=True), "o-", color="tab:red", label="median, not square")
    axes.plot(0, 100 * np.median(excess[shape == 0]), "D", color="tab:blue", label="median, square")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([-1, 0, 1], ["1:2", "1:1", "2:1"])
    axes.set(title="excess of the released order", xlabel="width : height", ylabel="% of the loss", ylim=(-5, 60))
    axes.legend(fontsize=8)


def draw_kid(axes: Any, found: dict[str, Any]) -> None:
    """KID of every run at every size, with its interval; those of a seed are joined."""
    of_order = arms(found)
    for place, size in enumerate(found["sizes"]):
        beside = np.linspace(-0.05, 0.05, len(of_order[RIGHT]))  # a seed's points in the same place of their group
        for pair, jitter in zip(zip(*of_order.values(), strict=True), beside, strict=True):
            values = [kid(found["runs"][column], size) for column in pair]
            axes.plot([place - 0.2 + jitter, place + 0.2 + jitter], values, color="lightgrey", zorder=0)
        for shift, order in ((-0.2, RIGHT), (0.2, RELEASED)):
            intervals = [found["runs"][column]["kid"][size]["made"] for column in of_order[order]]
            values = np.array([each["value"] for each in intervals])
            ends = np.array([[each["low"], each["high"]] for each in intervals]).T
            axes.errorbar(
                place + shift + beside,
                values,
                np.abs(ends - values),
                fmt="o",
                markersize=4,
                color=COLOURS[order],
                label=NAMES[order] if place == 0 else None,
            )
    axes.set_xticks(range(len(found["sizes"])), found["sizes"])
    axes.set(title=f"KID of {found['count']} samples, by seed", ylim=(0, 0.15))
    axes.legend(fontsize=8)
