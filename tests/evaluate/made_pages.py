"""Made evaluations and sweeps, and a reader of their pages."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import count

import numpy as np
import pytest

from anyres.evaluate.estimates import Interval
from anyres.evaluate.results import (
    Column,
    Comparison,
    Difference,
    Evaluation,
    Figures,
    Group,
    Memorisation,
    Neighbour,
    Origin,
    Point,
    Separation,
    Sweep,
)
from anyres.evaluate.signatures import Check
from anyres.grid import Size
from tests.made import picture

GIVEN = ("kid", "inception_score", "precision", "recall", "density", "coverage")
HOSTILE = """<script>alert("1")</script>'"><img src=x onerror=alert(2)>&amp;{{ 7 }}"""
VOID = {"meta", "img", "br", "hr", "input", "link"}
PICTURES = [picture(Size(40, 64), seed) for seed in range(4)]


class Page(HTMLParser):
    """Reads a page as a browser would, and fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.rows = [], [], []
        self.text, self.style = "", ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
            return
        self.text += f" {data}"
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += f" {data}"

    def cells(self, head: str) -> list[list[float]]:
        """Numbers in each cell of the one row whose head starts so."""
        (row,) = [row for row in self.rows if row[0].split("\n")[0].strip().startswith(head)]
        return [[float(part.replace(",", "")) for part in re.findall(r"-?[\d,]+\.?\d*", cell)] for cell in row[1:]]

    def images(self) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def intervals() -> Callable[..., Interval]:
    """A maker of intervals that all differ."""
    rng = np.random.default_rng(0)

    def interval(scale: float = 1.0) -> Interval:
        value = scale * rng.uniform(0.1, 1)
        return Interval(value=value, low=0.9 * value, high=1.2 * value)

    return interval


def some_figures(numbers, images: int, **chosen) -> Figures:
    return Figures(images=images, **{"frechet": None, "spatial_frechet": None} | {n: numbers() for n in GIVEN} | chosen)


def made_evaluation() -> Evaluation:
    """One that there is nothing to warn of."""
    numbers = intervals()
    serial = count()

    def groups(*names: str) -> tuple[Group, ...]:
        found = [(name, next(serial) + 31) for name in names]
        return tuple(
            Group(name=n, images=i, reference_images=7 * i, kid=numbers(), held_out_kid=numbers()) for n, i in found
        )

    tiling = Check(
        name="tiling", what="peaks", made=numbers(), data=numbers(), difference=numbers(), verdict="not seen"
    )
    names = ("made", "held-out", "collapse", "blur")
    return Evaluation(
        network="colours",
        network_input="as they are",
        framing="their own",
        made=Origin(name="run", kind="model", images=160, details={"steps": "50 of them"}),
        reference=Origin(name="real", kind="folder", images=904, details={"held out": "a fifth"}),
        headline="kid",
        figures=some_figures(numbers, 160),
        controls=tuple(Column(name=n, what=f"what {n} is", figures=some_figures(numbers, 120)) for n in names),
        separation=tuple(Separation(metric=metric, collapse=True, blur=True) for metric in GIVEN),
        by_size=groups("32–64 px", "64–128 px"),
        by_shape=groups("tall", "wide"),
        by_label=groups("cat", "dog"),
        nearest=tuple(
            Neighbour(made=f"m{i}.png", training=f"t{i}.png", distance=i + 0.25, typical=i / 8) for i in range(4)
        ),
        memorisation=Memorisation(share=numbers(0.1), made=3.25, held_out=4.75),
        signatures=(
            tiling,
            replace(tiling, name="bleeding", made=None, data=None, difference=None, verdict="not measured", note="why"),
        ),
        settings={"seed": 12345},
        versions={"torch": "9.8.7"},
    )


def made_sweep() -> Sweep:
    """Two axes, and a setting that stays."""
    numbers = intervals()
    axes = {"guidance": ("1", "2.5", "40"), "interval": ("0:0.7", "0:1"), "steps": ("10",)}
    settings = [
        {"guidance": guidance, "interval": interval, "steps": "10"}
        for guidance in axes["guidance"]
        for interval in axes["interval"]
    ]
    points = tuple(
        Point(settings=one, figures=some_figures(numbers, 200), folder=f"points/{number}", reference="own-sizes")
        for number, one in enumerate(settings)
    )
    held_out = (Column(name="own-sizes", what="real", figures=some_figures(numbers, 120)),)
    return Sweep(axes=axes, points=points, held_out=held_out, network="colours", headline="kid", seconds=(7.0,))


def comparison_of(a: Evaluation, b: Evaluation, **differences: tuple[float, float]) -> Comparison:
    found = tuple(
        Difference(
            metric=metric,
            a=getattr(a.figures, metric),
            b=getattr(b.figures, metric),
            difference=Interval(value=(low + high) / 2, low=low, high=high),
        )
        for metric, (low, high) in differences.items()
    )
    return Comparison(a=a, b=b, names=("first", "second"), images=150, differences=found)


def near(found: list[float], interval: Interval) -> bool:
    size = max(abs(interval.value), interval.high - interval.low)
    return found == pytest.approx([interval.value, interval.low, interval.high], abs=0.0051 * size)
