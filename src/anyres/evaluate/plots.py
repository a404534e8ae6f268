"""PNG plots of a sweep."""

import io
from typing import Any

import numpy as np

from ..plotting import new_figure
from .results import Figures, Point, Sweep
from .words import metric_name


def sweep_plots(sweep: Sweep) -> list[tuple[str, bytes]]:
    """The headline metric along each axis that has several values, then precision against recall: titles and PNG files.

    Points that differ in other settings are joined by one line for each combination of those.

    Raises:
        BackendError: matplotlib is not installed.
    """
    name = metric_name(sweep.headline, sweep.network)
    several = [axis for axis, values in sweep.axes.items() if len(values) > 1]
    found = [(f"{name} by {axis}", _along(sweep, axis, name)) for axis in several]
    return [*found, ("Precision and recall", _trade(sweep, several[0] if several else None))]


def _along(sweep: Sweep, axis: str, name: str) -> bytes:
    figure, (plot,) = new_figure(1, 1, width=6.4, height=4.0)
    values = sweep.axes[axis]
    places = _places(values)
    others = [other for other, found in sweep.axes.items() if other != axis and len(found) > 1]
    for settings in dict.fromkeys(tuple(point.settings[other] for other in others) for point in sweep.points):
        points = [p for p in sweep.points if tuple(p.settings[other] for other in others) == settings]
        found = [_of(p.figures, sweep.headline) for p in points]
        x = [places[values.index(p.settings[axis])] for p in points]
        order = np.argsort(x)
        low, mid, high = (np.array(found)[order, i] for i in range(3))
        label = ", ".join(f"{other} {value}" for other, value in zip(others, settings, strict=True))
        plot.errorbar(np.array(x)[order], mid, [mid - low, high - mid], marker="o", capsize=3, label=label or None)
    low, mid, high = _of(sweep.held_out, sweep.headline)
    plot.axhspan(low, high, color="grey", alpha=0.2, linewidth=0, label="real held-out images")
    plot.axhline(mid, color="grey", linewidth=1)
    plot.set(xlabel=axis, ylabel=name)
    plot.set_xticks(places, values, rotation=30 if max(map(len, values)) > 6 else 0)
    plot.legend(fontsize=8)
    return _png(figure)


def _trade(sweep: Sweep, axis: str | None) -> bytes:
    figure, (plot,) = new_figure(1, 1, width=5.2, height=4.4)
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        groups.setdefault(f"{axis} {point.settings[axis]}" if axis else "all", []).append(point)
    for label, points in groups.items():
        x, y = ([getattr(p.figures, name).value for p in points] for name in ("recall", "precision"))
        plot.scatter(x, y, label=label)
    plot.scatter(
        [sweep.held_out.recall.value],
        [sweep.held_out.precision.value],
        color="grey",
        marker="*",
        s=120,
        label="held-out",
    )
    plot.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    plot.legend(fontsize=8)
    return _png(figure)


def _of(figures: Figures, metric: str) -> tuple[float, float, float]:
    value = getattr(figures, metric)
    return (value.low, value.value, value.high) if value else (np.nan, np.nan, np.nan)


def _places(values: tuple[str, ...]) -> list[float]:
    """Numbers stand where they are, words one beside the other."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(i) for i in range(len(values))]


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
