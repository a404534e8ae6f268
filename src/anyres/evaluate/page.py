"""Pages that open offline: an evaluation, a comparison, a sweep. All that they show is inside them."""

import base64
import importlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..config import to_dict
from ..errors import BackendError
from .figures import METRICS
from .results import Comparison, Evaluation, Group, Sweep
from .words import best_point, difference_words, memorisation_words, metric_name, warnings

PX = 192  # longest side of a picture on a page
QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A picture as it is embedded.

    Attributes:
        uri: its data.
        width: px.
        height: px.
        caption: below it.
    """

    uri: str
    width: int
    height: int
    caption: str = ""


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
        made: its first pictures, RGB.
        nearest: the training picture nearest to each, or None where it is not at hand.
        real: held-out real pictures.

    Raises:
        BackendError: jinja2 is not installed.
    """
    controls = {column.name: column.figures for column in evaluation.controls}
    shared = controls["made"].images
    columns = [evaluation.figures, *controls.values()]
    heads = ["", "made", *(f"{name} at {shared:,}" for name in controls)]
    if shared == evaluation.figures.images:  # the same twice
        del columns[1], heads[2]
    blind = {one.metric for one in evaluation.separation if not (one.collapse and one.blur)}
    rows: list[list[Any]] = []
    for metric in METRICS:
        cells = [getattr(one, metric) for one in columns]
        if any(cell is not None for cell in cells):
            name = metric_name(metric, evaluation.network)
            rows.append([f"{name} · controls not told apart" if metric in blind else name, *cells])
    kid = [(head, one.kid) for head, one in zip(heads[1:], columns, strict=True)]
    low, high = min(0.0, *(value.low for _, value in kid)), max(value.high for _, value in kid)
    pictures = [_shown(picture) for picture in made]
    return _render(
        "evaluation.html.j2",
        evaluation.network,
        title=f"{evaluation.made.name}, evaluated",
        e=evaluation,
        headline={
            name: f"{getattr(one, evaluation.headline)}"
            for name, one in (("made", evaluation.figures), ("held_out", controls["held-out"]))
        },
        warnings=warnings(evaluation),
        heads=heads,
        rows=rows,
        no_frechet=evaluation.figures.frechet is None,
        kid_rows=[{"name": name, "value": value} for name, value in kid],
        low=low,
        high=high,
        made=pictures,
        real=[_shown(picture) for picture in real],
        memorisation=memorisation_words(evaluation),
        nearest=[
            {
                "made": ours,
                "training": theirs and _shown(theirs),
                "caption": f"{one.training}, at {one.distance:.3g}; "
                f"{one.typical:.0%} of held-out images are nearer to theirs",
            }
            for ours, theirs, one in zip(pictures, nearest, evaluation.nearest, strict=False)
        ],
        tables=[
            (name, [_group_row(group) for group in groups])
            for name, groups in (
                ("size", evaluation.by_size),
                ("shape", evaluation.by_shape),
                ("label", evaluation.by_label),
            )
            if groups
        ],
        protocol=[
            ("feature network", f"{evaluation.network}; {evaluation.network_input}"),
            ("framing", evaluation.framing),
            *((f"reference: {name}", value) for name, value in evaluation.reference.details.items()),
            *((f"sampling: {name}", value) for name, value in evaluation.made.details.items()),
        ],
        settings=_pretty({"settings": evaluation.settings, "versions": evaluation.versions}),
    )


def comparison_page(comparison: Comparison, *, a: Sequence[Image.Image], b: Sequence[Image.Image]) -> str:
    """The page of two evaluations.

    Args:
        comparison: what was found.
        a: first pictures of the first, RGB.
        b: of the second.

    Raises:
        BackendError: jinja2 is not installed.
    """
    first, second = comparison.a, comparison.b
    head = next((one for one in comparison.differences if one.metric == first.headline), comparison.differences[0])
    words = difference_words(head.metric, head.difference)
    settings = _flat(first.settings), _flat(second.settings)
    return _render(
        "comparison.html.j2",
        first.network,
        title=f"{comparison.names[0]} and {comparison.names[1]}, compared",
        c=comparison,
        headline=f"{metric_name(head.metric, first.network)}, B less A: {head.difference}. {words.capitalize()}.",
        rows=[
            {
                "name": metric_name(one.metric, first.network),
                **{part: getattr(one, part) for part in ("a", "b", "difference")},
                "words": difference_words(one.metric, one.difference),
            }
            for one in comparison.differences
        ],
        a=[_shown(picture) for picture in a],
        b=[_shown(picture) for picture in b],
        protocol=[
            ("feature network", f"{first.network}; {first.network_input}"),
            ("framing", first.framing),
            *((f"reference: {name}", value) for name, value in first.reference.details.items()),
        ],
        settings=[
            [name, *(str(part.get(name, "—")) for part in settings)]
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
    best = best_point(sweep)
    shown = [name for name in METRICS if getattr(sweep.points[0].figures, name) is not None]
    settings = ", ".join(f"{name} {value}" for name, value in sweep.points[best].settings.items())
    value = getattr(sweep.points[best].figures, sweep.headline)
    seconds = [*sweep.seconds, *[None] * len(sweep.points)]
    return _render(
        "sweep.html.j2",
        sweep.network,
        title="A sweep",
        s=sweep,
        headline=f"Best {metric_name(sweep.headline, sweep.network)}: {value} at {settings}; "
        f"real held-out images: {getattr(sweep.held_out, sweep.headline)}",
        metrics=shown,
        plots=[{"title": title, "uri": _uri(data, "png")} for title, data in plots],
        rows=[
            {
                "values": list(point.settings.values()),
                "figures": [getattr(point.figures, name) for name in shown],
                "seconds": "" if seconds[i] is None else f"{seconds[i]:.0f}",
                "link": f"{point.folder}/report.html",
                "best": i == best,
            }
            for i, point in enumerate(sweep.points)
        ],
    )


def _render(template: str, network: str, **values: Any) -> str:
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise BackendError(
            f"reports need jinja2: {error}", wanted="the extra [evaluate]", fix="pip install 'anyres[evaluate]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyres.evaluate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": _number, "thousands": lambda value: f"{value:,}"}
    environment.globals |= {"label": lambda metric: metric_name(metric, network), "at": _at, "ticks": _ticks}
    return environment.get_template(template).render(**values)


def _group_row(group: Group) -> list[Any]:
    return [group.name, f"{group.images:,}", f"{group.reference_images:,}", group.kid, group.held_out_kid]


def _shown(picture: Image.Image) -> _Shown:
    small = picture.convert("RGB")
    small.thumbnail((PX, PX), Image.Resampling.BICUBIC)  # keeps the shape, and never enlarges
    data = io.BytesIO()
    small.save(data, format="WEBP", quality=QUALITY)
    return _Shown(uri=_uri(data.getvalue(), "webp"), width=small.width, height=small.height)


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _at(value: float, low: float, high: float) -> float:
    """Place of a value on the plot's axis, px."""
    return round(150 + 470 * (value - low) / ((high - low) or 1), 1)


def _ticks(low: float, high: float) -> list[dict[str, Any]]:
    values = {low, 0.0, high} if low < 0 < high else {low, high}
    return [{"x": _at(value, low, high), "text": f"{value:.2g}"} for value in sorted(values)]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(to_dict(value) if not isinstance(value, dict) else value, indent=2, ensure_ascii=False)
