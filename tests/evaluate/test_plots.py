"""A sweep's page and plots."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anyres.evaluate.estimates import Interval
from anyres.evaluate.page import sweep_page
from anyres.evaluate.plots import sweep_plots
from anyres.evaluate.results import Sweep
from anyres.evaluate.words import sweep_text
from tests.evaluate.made_pages import GIVEN, Page, intervals, made_sweep, near


@pytest.fixture
def sweep() -> Sweep:
    return made_sweep()


def test_a_sweep_lists_all_points_best_first_with_links(sweep):
    page = Page(sweep_page(sweep, [("a plot", b"png")]))
    links = [a["href"] for tag, a in page.tags if tag == "a" and not a["href"].startswith("https:")]
    order = sorted(range(6), key=lambda i: sweep.points[i].figures.kid.value)
    assert links == [f"points/{i}/report.html" for i in order]
    rows = page.rows[1:8]
    assert [row[0].strip() for row in rows] == [*(sweep.points[i].settings["guidance"] for i in order), "held-out"]
    assert [row[-1].split() == ["best"] for row in rows] == [True] + [False] * 6
    for row, i in zip(rows, order, strict=False):
        overlaps = sweep.points[i].figures.kid.low <= sweep.points[order[0]].figures.kid.high
        assert ("overlaps" in row[-1]) == (overlaps and i != order[0])
        assert ("7" in row[-3]) == (i == 0)
    for row, figures in zip(rows, [*(sweep.points[i].figures for i in order), sweep.held_out[0].figures], strict=True):
        for cell, metric in zip(row[3:9], GIVEN, strict=True):  # past the settings
            assert near([float(part) for part in re.findall(r"-?\d+\.?\d*", cell)], getattr(figures, metric))
    upward = replace(sweep, headline="recall")
    best = max(range(6), key=lambda i: sweep.points[i].figures.recall.value)
    assert f'href="points/{best}/report.html"' in sweep_page(upward, []).partition("</tr>")[2].partition("</tr>")[0]
    lines = sweep_text(sweep).splitlines()
    assert [line.endswith("best") for line in lines[1:7]] == [i == order[0] for i in range(6)]


def test_a_plot_for_each_axis_with_several_values(sweep):
    numbers = intervals()
    plots = sweep_plots(sweep)
    assert [title for title, _ in plots] == [
        "KID (colours) by guidance",
        "KID (colours) by interval",
        "Precision and recall",
    ]
    assert len({data for _, data in plots}) == 3
    for _, data in plots:
        assert data.startswith(b"\x89PNG")
        assert len(np.unique(np.asarray(Image.open(io.BytesIO(data)).convert("L")))) > 10
    outside = Interval(value=0.9, low=0.5, high=0.8)  # draws of a biased metric may all lie on one side
    points = [replace(one, figures=replace(one.figures, kid=outside, frechet=None)) for one in sweep.points]
    points[0] = replace(points[0], figures=replace(points[0].figures, frechet=numbers(10)))
    assert len(sweep_plots(replace(sweep, points=tuple(points)))) == 3
    partly = replace(sweep, points=tuple(points), headline="frechet")
    assert len(sweep_plots(partly)) == 3
    assert "points/0" in sweep_page(partly, []).partition("</tr>")[2].partition("</tr>")[0]
    alone = replace(sweep, axes={"steps": ("10",)}, points=sweep.points[:1])
    assert [title for title, _ in sweep_plots(alone)] == ["Precision and recall"]
