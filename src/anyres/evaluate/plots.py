"""PNG plots of a sweep."""

import io
from typing import Any

import numpy as np

from ..plotting import new_figure
from .estimates import Interval
from .results import Figures, Point, Sweep
from .words import metric_name

WIDE = 8  # greatest over least value of an axis, from which on it is logarithmic
DASHES = ("-", "--", ":", "-.")


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
    values = sweep.axes[axis]
    places = dict(zip(values, _places(values), strict=True))
    others = [other for other, found in sweep.axes.items() if other != axis and len(found) > 1]
    lines = list(dict.fromkeys(tuple(point.settings[other] for other in others) for point in sweep.points))
    figure, (plot,) = _new(len(lines))
    for settings in lines:
        points = [
            point
            for point in sorted(sweep.points, key=lambda point: places[point.settings[axis]])
            if tuple(point.settings[other] for other in others) == settings and _of(point.figures, sweep.headline)
        ]
        x = [places[point.settings[axis]] for point in points]
        found = [getattr(point.figures, sweep.headline) for point in points]
        # the first of the other settings shows as the colour, the second as the dash
        numbers = [sweep.axes[other].index(value) for other, value in zip(others, settings, strict=True)]
        color = _color(numbers[0], len(sweep.axes[others[0]])) if others else "C0"
        dash = DASHES[numbers[1] % len(DASHES)] if len(others) > 1 else "-"
        label = ", ".join(f"{other} {value}" for other, value in zip(others, settings, strict=True))
        plot.plot(x, [one.value for one in found], dash, color=color, marker="o", markersize=5, label=label or "made")
        # not error bars: an interval of draws need not hold its estimate
        plot.vlines(x, [one.low for one in found], [one.high for one in found], color=color, linewidth=1.2)
    _held_out(plot, sweep, axis, places)
    if min(places.values()) > 0 and max(places.values()) > WIDE * min(places.values()) and _numbers(values):
        plot.set_xscale("log")
        plot.minorticks_off()
    plot.set(xlabel=axis, ylabel=name)
    plot.set_xticks(list(places.values()), list(places), rotation=30 if max(map(len, values)) > 6 else 0)
    return _png(figure)


def _held_out(plot: Any, sweep: Sweep, axis: str, places: dict[str, float]) -> None:
    """The line to reach: a band, or a star at each place where the references differ along the axis."""
    reached = {column.name: found for column in sweep.held_out if (found := _of(column.figures, sweep.headline))}
    if len(sweep.held_out) == 1:
        for one in reached.values():
            plot.axhspan(one.low, one.high, color="grey", alpha=0.2, linewidth=0, label="real held-out images")
            plot.axhline(one.value, color="grey", linewidth=1)
        return
    stars = {(places[point.settings[axis]], point.reference) for point in sweep.points if point.reference in reached}
    for number, (x, reference) in enumerate(sorted(stars)):
        one = reached[reference]
        plot.vlines([x], [one.low], [one.high], color="grey", linewidth=1)
        plot.scatter([x], [one.value], color="grey", marker="*", s=90, label="" if number else "real held-out images")


def _trade(sweep: Sweep, axis: str | None) -> bytes:
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        groups.setdefault(f"{axis} {point.settings[axis]}" if axis else "made", []).append(point)
    figure, (plot,) = _new(len(groups))
    for number, (label, points) in enumerate(groups.items()):
        _dots(plot, [point.figures for point in points], _color(number, len(groups)), "o", label)
    _dots(plot, [column.figures for column in sweep.held_out], "grey", "*", "real held-out images")
    plot.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return _png(figure)


def _new(entries: int) -> tuple[Any, list[Any]]:
    """A figure with room for a legend of so many entries, and the real images', below the plot."""
    return new_figure(1, 1, width=7.2, height=3.6 + 0.16 * (entries // 2 + 1))


def _dots(plot: Any, figures: list[Figures], color: Any, marker: str, label: str) -> None:
    """Precision and recall with the intervals of both."""
    x, y = [one.recall for one in figures], [one.precision for one in figures]
    across, up = [one.value for one in x], [one.value for one in y]
    plot.hlines(up, [one.low for one in x], [one.high for one in x], color=color, linewidth=0.8, alpha=0.5)
    plot.vlines(across, [one.low for one in y], [one.high for one in y], color=color, linewidth=0.8, alpha=0.5)
    plot.scatter(across, up, color=color, marker=marker, s=140 if marker == "*" else 36, label=label, zorder=3)


def _of(figures: Figures, metric: str) -> Interval | None:
    return getattr(figures, metric)


def _color(number: int, count: int) -> tuple[float, ...]:
    """Of an ordered palette that the colour-blind can tell apart, short of its palest end."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.88 * number / max(1, count - 1))


def _places(values: tuple[str, ...]) -> list[float]:
    """Numbers stand where they are, words one beside the other."""
    return [float(value) for value in values] if _numbers(values) else [float(i) for i in range(len(values))]


def _numbers(values: tuple[str, ...]) -> bool:
    try:
        return bool(np.isfinite([float(value) for value in values]).all())
    except ValueError:
        return False


def _png(figure: Any) -> bytes:
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
