"""Pages that open offline: an evaluation, a comparison, a sweep. All that they show is inside them."""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any
from urllib.parse import quote

from PIL import Image

from .figures import LEAST_IMAGES, METRICS, SMALLER_IS_BETTER
from .rendering import PAIR_PX, Shown, data_uri, forest, interval_words, render, shown, zoom
from .results import Column, Comparison, Evaluation, Figures, Group, Neighbour, Point, Sweep
from .sets import FRECHET_IMAGES
from .words import difference_words, memorisation_words, metric_name, rank, warnings


def evaluation_page(
    evaluation: Evaluation,
    *,
    made: Sequence[Image.Image],
    nearest: Sequence[Image.Image | None],
    real: Sequence[Image.Image],
) -> str:
    """The page of an evaluation.

    Args:
        evaluation: what was found.
        made: some of its pictures, RGB, in the order of its nearest training images.
        nearest: the training picture nearest to each, or None where it is not at hand.
        real: held-out real pictures.

    Raises:
        BackendError: jinja2 is not installed.
    """
    controls = {column.name: column for column in evaluation.controls}
    columns = [Column(name="made", what="", figures=evaluation.figures), *evaluation.controls]
    if controls["made"].figures.images == evaluation.figures.images:  # the same twice
        columns.remove(controls["made"])
    times = zoom([*made, *real])
    captions = [_stem(one.made) for one in evaluation.nearest] + [""] * len(made)
    return render(
        "evaluation.html.j2",
        title=f"{evaluation.made.name}, evaluated",
        e=evaluation,
        network=evaluation.network,
        headline=_quoted(evaluation.headline, evaluation.network, evaluation.figures),
        against=_quoted(evaluation.headline, evaluation.network, controls["held-out"].figures),
        by_kid=evaluation.headline if getattr(controls["held-out"].figures, evaluation.headline) is None else "",
        controls={name: column.figures for name, column in controls.items()},
        warnings=warnings(evaluation),
        columns=columns,
        rows=[_figures_row(metric, evaluation, columns) for metric in METRICS],
        forest=forest([(f"{one.name}, {one.figures.images:,}", one.figures.kid) for one in columns]),
        made=[shown(one, times=times, caption=caption) for one, caption in zip(made, captions, strict=False)],
        real=[shown(one, times=times) for one in real],
        zoomed=times > 1,
        memorisation=memorisation_words(evaluation),
        pairs=_pairs(evaluation.nearest, made, nearest),
        groups=[
            (name, groups, any(group.kid is None or group.held_out_kid is None for group in groups))
            for name, groups in _tables(evaluation)
        ],
        least=LEAST_IMAGES,
        protocol=_protocol(evaluation)
        + [(f"sampling: {name}", value) for name, value in evaluation.made.details.items()],
        settings=json.dumps(
            {"settings": evaluation.settings, "versions": evaluation.versions}, indent=2, ensure_ascii=False
        ),
    )


def comparison_page(comparison: Comparison, *, a: Sequence[Image.Image], b: Sequence[Image.Image]) -> str:
    """The page of two evaluations.

    Args:
        comparison: what was found.
        a: pictures of the first, RGB.
        b: of the second.

    Raises:
        BackendError: jinja2 is not installed.
    """
    first, second = comparison.a, comparison.b
    found = comparison.differences
    head = next((one for one in found if one.metric == first.headline), found[0])
    settings = [_flat({**one.settings, "version": one.versions}) for one in (first, second)]
    times = zoom([*a, *b])
    clear = [one.metric for one in found if not one.difference.low <= 0 <= one.difference.high]
    return render(
        "comparison.html.j2",
        title=f"{comparison.names[0]} and {comparison.names[1]}, compared",
        c=comparison,
        network=first.network,
        headline=f"{metric_name(head.metric, first.network)}, B less A: {interval_words(head.difference)}",
        verdict=difference_words(head.metric, head.difference),
        rows=[
            {
                "name": _short(one.metric, first.network),
                "values": [one.a, one.b, one.difference],
                "words": difference_words(one.metric, one.difference),
                "told": one.metric in clear,
            }
            for one in found
        ],
        clear=[metric_name(metric, first.network) for metric in clear],
        warnings=[f"{name}: {text}" for name, one in (("A", first), ("B", second)) for text in warnings(one)],
        sheets=[
            (name, [shown(picture, times=times) for picture in pictures])
            for name, pictures in (("A", a), ("B", b))
            if pictures
        ],
        zoomed=times > 1,
        protocol=_protocol(first),
        settings=[
            (name, *(str(part.get(name, "—")) for part in settings))
            for name in sorted({*settings[0], *settings[1]})
            if settings[0].get(name) != settings[1].get(name)
        ],
    )


def sweep_page(sweep: Sweep, plots: Sequence[tuple[str, bytes]]) -> str:
    """The page of a sweep.

    Args:
        sweep: what was found.
        plots: titles and PNG files, as `sweep_plots` makes them.

    Raises:
        BackendError: jinja2 is not installed.
    """
    seconds = chain(sweep.seconds, [None] * len(sweep.points))
    points = list(zip(sweep.points, seconds, strict=False))
    comparable = len(sweep.held_out) == 1  # figures against different references are not
    if comparable:
        points.sort(key=lambda one: rank(one[0], sweep.headline))
    best = points[0][0] if comparable else None
    shown_first = [sweep.headline, *(metric for metric in METRICS if metric != sweep.headline)]
    metrics = [metric for metric in shown_first if any(getattr(one.figures, metric) for one, _ in points)]
    name = metric_name(sweep.headline, sweep.network)
    return render(
        "sweep.html.j2",
        title=f"{name} by {', '.join(sweep.axes)}",
        s=sweep,
        network=sweep.network,
        images=sorted({point.figures.images for point in sweep.points}),
        headline=best
        and f"Best {_quoted(sweep.headline, sweep.network, best.figures)} at "
        + ", ".join(f"{axis} {text}" for axis, text in best.settings.items()),
        against=_quoted(sweep.headline, sweep.network, sweep.held_out[0].figures),
        metrics=[(metric, _short(metric, sweep.network)) for metric in metrics],
        plots=[(title, data_uri(data, "png")) for title, data in plots],
        rows=[
            {
                "settings": list(point.settings.values()),
                "figures": [getattr(point.figures, metric) for metric in metrics],
                "seconds": None if took is None else f"{took:,.0f}",
                "link": f"{quote(point.folder)}/report.html",
                "word": _word(point, best, sweep.headline),
            }
            for point, took in points
        ],
    )


def _quoted(metric: str, network: str, figures: Figures) -> str:
    value = getattr(figures, metric)
    return f"{metric_name(metric, network)} {interval_words(value) if value else 'not given'}"


def _short(metric: str, network: str) -> str:
    """A metric's name where the network stands below it, and which way is better."""
    return f"{metric_name(metric, network).removesuffix(f' ({network})')} {'↓' if metric in SMALLER_IS_BETTER else '↑'}"


def _figures_row(metric: str, evaluation: Evaluation, columns: Sequence[Column]) -> dict[str, Any]:
    """A metric in all columns, with what must be known of it."""
    values = [getattr(column.figures, metric) for column in columns]
    told = {one.metric: one for one in evaluation.separation}.get(metric)
    missed = [] if told is None else [name for name in ("collapse", "blur") if not getattr(told, name)]
    return {
        "name": _short(metric, evaluation.network),
        "values": values,
        "mark": f"does not tell the {' or the '.join(missed)} from real images" if missed else "",
        "reason": _reason(metric, evaluation, columns) if None in values else "",
    }


def _reason(metric: str, evaluation: Evaluation, columns: Sequence[Column]) -> str:
    """Why a metric is not given in some column."""
    if metric == "inception_score":
        return "needs a network with classes"
    absent = [column for column in columns if getattr(column.figures, metric) is None]
    least = min(evaluation.reference.images, *(column.figures.images for column in absent))
    if least < FRECHET_IMAGES:
        return f"not given below {FRECHET_IMAGES:,} images: mostly bias"
    return "needs images of one size"


def _pairs(
    neighbours: Sequence[Neighbour], made: Sequence[Image.Image], nearest: Sequence[Image.Image | None]
) -> list[dict[str, Any]]:
    """Made pictures beside their nearest training pictures, smaller than on the sheet."""
    theirs = [*nearest, *[None] * len(made)]
    times = zoom([*made, *nearest], PAIR_PX)

    def small(picture: Image.Image | None) -> Shown | None:
        return picture and shown(picture, px=PAIR_PX, times=times)

    return [
        {
            "made": small(ours),
            "training": small(other),
            "name": _stem(one.made),
            "other": one.training,
            "distance": f"{one.distance:.3g}",
            "nearer": f"{1 - one.typical:.0%}",
        }
        for one, ours, other in zip(neighbours, made, theirs, strict=False)
    ]


def _tables(evaluation: Evaluation) -> list[tuple[str, tuple[Group, ...]]]:
    found = (("size", evaluation.by_size), ("shape", evaluation.by_shape), ("label", evaluation.by_label))
    return [(name, groups) for name, groups in found if groups]


def _protocol(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [
        ("feature network", f"{evaluation.network}; {evaluation.network_input}"),
        ("framing", evaluation.framing),
        *((f"reference: {name}", value) for name, value in evaluation.reference.details.items()),
    ]


def _word(point: Point, best: Point | None, metric: str) -> str:
    """What is to be said of a point beside its figures."""
    if best is None or point is best:
        return "best" if point is best else ""
    ours, theirs = getattr(point.figures, metric), getattr(best.figures, metric)
    near = ours and theirs and ours.low <= theirs.high and theirs.low <= ours.high
    return "interval overlaps the best's" if near else ""


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
