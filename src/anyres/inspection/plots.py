"""PNG plots of what `anyres inspect` finds."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..files import make_folder, replacing
from ..plotting import new_figure
from .attention import PackAttention
from .dataset import DatasetReport
from .run import HELD_OUT, TRAIN, RunCurves, group_in_words

WINDOW = 20  # lines of metrics that a point averages, where there are many


def plot_dataset(report: DatasetReport, folder: Path) -> list[Path]:
    """Sizes, shapes, labels and packing; returns the files.

    Raises:
        BackendError: matplotlib is not installed.
        DataError: the folder cannot be written to.
    """
    make_folder(folder)
    return [_sizes(report, folder), _labels(report, folder), _packing(report, folder)]


def plot_attention(attention: PackAttention, titles: list[str], folder: Path) -> Path:
    """The first, middle and last block's attention, images' borders drawn; returns the file."""
    make_folder(folder)
    blocks = len(attention.weights)
    chosen = sorted({0, blocks // 2, blocks - 1})
    figure, axes = new_figure(1, len(chosen), width=4.6, height=4.8)
    bounds = attention.layout.cu_seqlens.tolist()
    for axis, block in zip(axes, chosen, strict=True):
        # the root shows weak weights beside strong ones
        axis.imshow(attention.weights[block].sqrt().numpy(), cmap="magma", interpolation="nearest")
        for bound in bounds[1:-1]:
            axis.axhline(bound - 0.5, color="white", linewidth=0.6)
            axis.axvline(bound - 0.5, color="white", linewidth=0.6)
        centres = [(a + b) / 2 for a, b in pairwise(bounds)]
        axis.set_xticks(centres, titles)
        axis.set_yticks(centres, titles, rotation=90, va="center")
        axis.set_title(f"block {block + 1} of {blocks}")
        axis.set_xlabel("token looked at")
    axes[0].set_ylabel("token looking")
    figure.suptitle(f"√attention, mean over heads; most given to another image: {attention.outside:.1g}")
    return _save(figure, folder / "attention.png")


def plot_run(runs: Sequence[RunCurves], folder: Path) -> Path:
    """The curves of runs over each other: losses, gradient norm, speed, and the first one's groups."""
    make_folder(folder)
    figure, axes = new_figure(2, 3, width=5.2, height=3.6)
    for run in runs:
        _curve(axes[0], run, TRAIN, "loss_flow", f"{run.folder.name}, training")
        _curve(axes[0], run, HELD_OUT, "loss_flow", f"{run.folder.name}, held out")
        _curve(axes[1], run, TRAIN, "gradient_norm", run.folder.name)
        _curve(axes[2], run, TRAIN, "tokens_per_second", run.folder.name)
        _curve(axes[5], run, TRAIN, "loss_alignment", run.folder.name)
    trained = runs[0].groups(TRAIN)
    for number, name in enumerate(runs[0].groups(TRAIN, HELD_OUT)):
        said, colour = group_in_words(name), f"C{number % 10}"
        axis = axes[3 if said.startswith("t ") else 4]
        _curve(axis, runs[0], TRAIN, name, said, color=colour)
        _curve(axis, runs[0], HELD_OUT, name, "" if name in trained else said, color=colour, linestyle=":")
    axes[1].set_yscale("log")  # the first steps' is larger by orders
    above = ("mean square of the loss", "gradient norm, before clipping", "tokens/s")
    below = ("by t (dots: held out)", "by size (dots: held out)", "alignment with the teacher")
    for axis, title in zip(axes, (*above, *below), strict=True):
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        axis.set_visible(axis.has_data())
        if axis.has_data():
            axis.legend(fontsize="small")
    return _save(figure, folder / "curves.png")


def _curve(axis: Any, run: RunCurves, kind: str, name: str, label: str, **style: Any) -> None:
    """A quantity by its steps; of many lines of training each point is a mean of `WINDOW`."""
    steps, values = run.series(kind, name)
    if kind == TRAIN and len(values) > 5 * WINDOW:
        kernel = np.full(WINDOW, 1 / WINDOW)
        steps, values = (np.convolve(series, kernel, "valid") for series in (steps, values))
    if len(values):
        axis.plot(steps, values, marker="o" if kind == HELD_OUT else None, markersize=3, label=label, **style)


def _sizes(report: DatasetReport, folder: Path) -> Path:
    figure, (left, right) = new_figure(1, 2, width=5.2, height=4.2)
    height, width = report.dataset.image_px.T
    sizes, counts = np.unique(report.dataset.image_px, axis=0, return_counts=True)
    # an area that says how many rows have that size
    left.scatter(sizes[:, 1], sizes[:, 0], s=4 + 200 * counts / counts.max(), alpha=0.4, linewidths=0)
    left.set(xlabel="width, px", ylabel="height, px", title=f"sizes of {len(width):,} rows")
    left.set_aspect("equal", "box")
    right.hist(np.log2(width / height), bins=40)
    ticks = np.arange(-2, 3)
    right.set_xticks(ticks, [f"{2**t}:1" if t > 0 else f"1:{2**-t}" for t in ticks.tolist()])
    right.set(xlabel="width : height", ylabel="rows", title="shapes")
    return _save(figure, folder / "sizes.png")


def _labels(report: DatasetReport, folder: Path) -> Path:
    names = report.dataset.info.labels
    counts = np.bincount(report.dataset.labels, minlength=len(names))
    order = np.argsort(counts)[-40:]
    figure, axes = new_figure(1, 1, width=6.4, height=1.2 + 0.2 * len(order))
    axes[0].barh([names[i] for i in order], counts[order])
    axes[0].set(xlabel="rows", title="labels" if len(order) == len(names) else "the 40 most frequent labels")
    return _save(figure, folder / "labels.png")


def _packing(report: DatasetReport, folder: Path) -> Path:
    figure, (left, right) = new_figure(1, 2, width=5.2, height=4.0)
    for algorithm in sorted({p.algorithm for p in report.packings}):
        chosen = [p for p in report.packings if p.algorithm == algorithm]
        budgets = [p.budget for p in chosen]
        left.plot(budgets, [100 * (1 - p.efficiency) for p in chosen], marker="o", label=algorithm)
        right.plot(budgets, [100 * p.one_size_share for p in chosen], marker="o", label=algorithm)
    left.set(xlabel="budget, tokens", ylabel="%", title="room left empty")
    right.set(xlabel="budget, tokens", ylabel="%", title="packs of one size only")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.legend()
    return _save(figure, folder / "packing.png")


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as staging:
        figure.savefig(staging, format="png")
    return path
