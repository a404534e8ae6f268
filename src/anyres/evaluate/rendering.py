"""What the pages are made of: templates, numbers as they are printed, pictures inside the page, and a plot's places."""

import base64
import importlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import BackendError
from .estimates import Interval

SHEET_PX, PAIR_PX = 192, 128  # longest side of a picture, on its own and in a pair
QUALITY = 80
TICKS = 6  # of a plot, at most
LEAST_SPAN = 1e-9  # of a plot's axis: all below is one point


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture as it is embedded.

    Attributes:
        uri: its data.
        width: px on the page.
        height: px on the page.
        caption: below it.
    """

    uri: str
    width: int
    height: int
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An interval's places on a plot's axis, in % of its length.

    Attributes:
        name: of the row.
        text: the interval in words.
        low: its lower end.
        value: the estimate.
        high: its upper end.
    """

    name: str
    text: str
    low: float
    value: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Intervals of one metric, one below the other.

    Attributes:
        marks: the intervals.
        ticks: places in % and texts.
    """

    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]


def render(template: str, **values: Any) -> str:
    """Fill a template; all text is escaped.

    Raises:
        BackendError: jinja2 is not installed.
    """
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise BackendError(
            f"reports need jinja2: {error}", wanted="the extra [evaluate]", fix="pip install 'anyres[evaluate]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyres.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"parts": interval_parts, "words": interval_words, "thousands": lambda value: f"{value:,}"}
    return environment.get_template(template).render(**values)


def interval_parts(interval: Interval) -> tuple[str, str, str]:
    """The estimate and its interval's ends to equal decimals: three figures of the estimate, or of a wider interval."""
    scale = max(abs(interval.value), interval.high - interval.low)
    decimals = 0 if scale == 0 or not math.isfinite(scale) else min(max(2 - math.floor(math.log10(scale)), 0), 6)
    rounded = (round(part, decimals) + 0.0 for part in (interval.value, interval.low, interval.high))  # no -0
    value, low, high = (f"{part:,.{decimals}f}" for part in rounded)
    return value, low, high


def interval_words(interval: Interval) -> str:
    """An interval in a sentence."""
    value, low, high = interval_parts(interval)
    return f"{value} [{low}, {high}]"


def forest(rows: Sequence[tuple[str, Interval]]) -> Forest:
    """Places of named intervals on an axis that holds 0."""
    ends = [0.0, *(end for _, one in rows for end in (one.low, one.value, one.high))]
    start, span = min(ends), max(ends) - min(ends)
    span = span if span > LEAST_SPAN else 1.0
    step = _step(span)
    decimals = max(0, -math.floor(math.log10(step)))

    def place(value: float) -> float:
        return round(2 + 96 * (value - start) / span, 2)

    first, last = math.ceil(start / step), math.floor((start + span) / step)
    return Forest(
        marks=tuple(
            Mark(
                name=name,
                text=interval_words(one),
                low=place(one.low),
                value=place(one.value),
                high=place(one.high),
            )
            for name, one in rows
        ),
        ticks=tuple((place(i * step), f"{i * step:,.{decimals}f}") for i in range(first, last + 1)),
    )


def zoom(pictures: Sequence[Image.Image | None], px: int = SHEET_PX) -> int:
    """How many px of the page stand for one of theirs: more than one where all are small, so that sizes compare."""
    return max(1, px // max((max(picture.size) for picture in pictures if picture), default=px))


def shown(picture: Image.Image, *, px: int = SHEET_PX, times: int = 1, caption: str = "") -> Shown:
    """Embed a picture, reduced to a longest side of `px`; `times` enlarges it on the page, not in its data."""
    small = picture.convert("RGB")
    small.thumbnail((px, px), Image.Resampling.BICUBIC)  # keeps the shape, and never enlarges
    data = io.BytesIO()
    small.save(data, format="WEBP", quality=QUALITY)
    return Shown(
        uri=data_uri(data.getvalue(), "webp"), width=times * small.width, height=times * small.height, caption=caption
    )


def data_uri(data: bytes, kind: str) -> str:
    """An image file inside a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _step(span: float) -> float:
    """The least of 1, 2, 5, 10, … times a power of ten that divides the span into few steps."""
    power = 10.0 ** math.floor(math.log10(span / (TICKS - 1)))
    return next(times * power for times in (1, 2, 5, 10, 20) if span / (times * power) <= TICKS - 1)
