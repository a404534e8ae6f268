"""The pages: whole, shut off from the network, true to the numbers, and plain about what the numbers do not say."""

import base64
import io
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anyres.errors import BackendError
from anyres.evaluate.page import comparison_page, evaluation_page, sweep_page
from anyres.evaluate.plots import sweep_plots
from anyres.evaluate.rendering import interval_parts
from anyres.evaluate.results import Evaluation, Separation, Sweep
from anyres.evaluate.words import comparison_text, figures_text
from anyres.grid import Size
from tests.evaluate.made_pages import (
    GIVEN,
    HOSTILE,
    PICTURES,
    Page,
    comparison_of,
    intervals,
    made_evaluation,
    made_sweep,
    near,
    some_figures,
)
from tests.made import picture


@pytest.fixture
def evaluation() -> Evaluation:
    return made_evaluation()


@pytest.fixture
def sweep() -> Sweep:
    return made_sweep()


def whole(evaluation: Evaluation, **pictures) -> str:
    return evaluation_page(evaluation, **{"made": PICTURES, "nearest": PICTURES, "real": PICTURES} | pictures)


def test_pages_are_whole_and_load_nothing(evaluation, sweep):
    compared = comparison_of(evaluation, evaluation, kid=(-1, 1))
    for text in (
        whole(evaluation),
        comparison_page(compared, a=PICTURES, b=PICTURES),
        sweep_page(sweep, sweep_plots(sweep)),
    ):
        page = Page(text)
        assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
        assert "url(" not in page.style
        assert "@import" not in page.style
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") or name in ("srcset", "xlink:href") for name in attributes)
            assert attributes.get("src", "data:").startswith("data:")
            target = attributes.get("href", "#")
            papers = tag == "a" and target.startswith("https://arxiv.org/abs/")
            assert papers or not re.match(r"[a-z]*:|/", target)
        assert "prefers-color-scheme: dark" in page.style
        assert "default-src 'none'" in text  # a browser would refuse the rest


def test_every_figure_stands_in_its_row_and_column(evaluation):
    page = Page(whole(evaluation))
    names = ("KID", "Inception Score", "precision", "recall", "density", "coverage")
    columns = [evaluation.figures, *(column.figures for column in evaluation.controls)]
    for metric, name in zip(GIVEN, names, strict=True):
        cells = page.cells(f"{name} ")
        assert len(cells) == 5
        assert all(near(cell, getattr(one, metric)) for cell, one in zip(cells, columns, strict=True))
    for group in (*evaluation.by_size, *evaluation.by_shape, *evaluation.by_label):
        images, training, ours, held_out = page.cells(group.name)
        assert (images, training) == ([group.images], [group.reference_images])
        assert near(ours, group.kid)
        assert near(held_out, group.held_out_kid)
    tiling = evaluation.signatures[0]
    verdict, *values = page.cells("tiling")
    assert verdict == []
    assert all(
        near(value, one) for value, one in zip(values, (tiling.made, tiling.data, tiling.difference), strict=True)
    )
    head = " ".join(page.text.partition("Figures and controls")[0].split())
    for kid, images in ((evaluation.figures.kid, 160), (evaluation.controls[1].figures.kid, 120)):
        value, low, high = interval_parts(kid)
        assert re.search(rf"KID \(colours\) {re.escape(f'{value} [{low}, {high}]')} ?, {images} images against", head)
    told = (
        "904",
        "3.25",
        "4.75",
        "12345",
        "9.8.7",
        "a fifth",
        "50 of them",
        "as they are",
        "their own",
        "not measured",
    )
    for text in (*told, *(f"what {column.name} is" for column in evaluation.controls)):
        assert text in page.text
    for paper in ("1801.01401", "1706.08500", "2103.03841", "1606.03498", "1904.06991", "2002.09797"):
        assert f"arXiv {paper}" in page.text


def test_hostile_names_stay_text(evaluation, sweep):
    bad = replace(
        evaluation,
        made=replace(evaluation.made, name=HOSTILE, details={HOSTILE: HOSTILE}),
        reference=replace(evaluation.reference, name=HOSTILE, details={HOSTILE: HOSTILE}),
        controls=tuple(replace(column, what=HOSTILE) for column in evaluation.controls),
        by_label=tuple(replace(group, name=HOSTILE) for group in evaluation.by_label),
        nearest=tuple(replace(one, made=HOSTILE, training=HOSTILE) for one in evaluation.nearest),
        signatures=tuple(replace(one, name=HOSTILE, what=HOSTILE, note=HOSTILE) for one in evaluation.signatures),
        settings={"model": HOSTILE},
    )
    compared = replace(comparison_of(bad, evaluation, kid=(1, 2)), names=(HOSTILE, HOSTILE))
    points = tuple(
        replace(one, settings=dict.fromkeys(one.settings, HOSTILE), folder=f"javascript:{HOSTILE}#?%")
        for one in sweep.points
    )
    swept = replace(sweep, axes={HOSTILE: (HOSTILE,)}, points=points)
    for text in (whole(bad), comparison_page(compared, a=PICTURES, b=[]), sweep_page(swept, [(HOSTILE, b"")])):
        page = Page(text)
        assert HOSTILE in page.text
        assert all(tag != "script" for tag, _ in page.tags)
        assert all(attributes["src"].startswith("data:") for attributes in page.images())
        links = [a["href"] for tag, a in page.tags if tag == "a" and not a["href"].startswith("https://arxiv.org/")]
        assert not any(set(link) & set(":#?<\"'") for link in links)


CASES = {
    "does not tell the made blur": lambda e: replace(
        e, separation=tuple(replace(one, blur=one.metric != e.headline) for one in e.separation)
    ),
    "3 cannot be read": lambda e: replace(e, made=replace(e.made, unreadable=3)),
    "4 are smaller": lambda e: replace(e, reference=replace(e.reference, small=4)),
    "at 43 images only": lambda e: replace(
        e, controls=tuple(replace(column, figures=replace(column.figures, images=43)) for column in e.controls)
    ),
    "Failure seen: tiling": lambda e: replace(e, signatures=(replace(e.signatures[0], verdict="seen"),)),
}


def test_warnings_are_given_where_they_are_due_and_nowhere_else(evaluation):
    def warned(found: Evaluation) -> str:
        return whole(found).partition('<ul class="warnings">')[2].partition("</ul>")[0]

    assert warned(evaluation) == ""
    for text, change in CASES.items():
        told = warned(change(evaluation))
        assert text in told
        assert told.count("<li>") == 1
        assert text in figures_text(change(evaluation))
    assert not any(text in figures_text(evaluation) for text in CASES)


def test_a_metric_that_proves_nothing_is_marked(evaluation):
    parts = {"recall": (False, True), "density": (False, False)}
    blind = tuple(
        Separation(metric=metric, collapse=collapse, blur=blur)
        for metric, (collapse, blur) in ((metric, parts.get(metric, (True, True))) for metric in GIVEN)
    )
    page = Page(whole(replace(evaluation, separation=blind)))
    marked = {row[0].split()[0]: " ".join(row[0].split()) for row in page.rows if "does not tell" in row[0]}
    assert set(marked) == {"recall", "density"}
    assert marked["recall"].endswith("does not tell the collapse from real images")
    assert marked["density"].endswith("does not tell the collapse or the blur from real images")


def test_what_is_not_given_is_a_dash_with_the_reason(evaluation):
    numbers = intervals()

    def rows(found: Evaluation) -> dict[str, list[str]]:
        return {
            row[0].split()[0]: [" ".join(cell.split()) for cell in row] for row in Page(whole(found)).rows if row[0]
        }

    few = rows(evaluation)
    assert few["Fréchet"][1:] == ["—"] * 5
    assert "below 5,000 images: mostly bias" in few["Fréchet"][0]
    assert "not given" not in few["KID"][0]
    many = replace(
        evaluation,
        made=replace(evaluation.made, images=10_000),
        reference=replace(evaluation.reference, images=20_000),
        headline="frechet",
        figures=some_figures(numbers, 10_000, frechet=numbers(10), inception_score=None),
        controls=tuple(
            replace(column, figures=some_figures(numbers, 6_000, frechet=numbers(10), inception_score=None))
            for column in evaluation.controls
        ),
    )
    told = rows(many)
    assert "—" not in told["Fréchet"]
    assert "not given" not in told["Fréchet"][0]
    assert "one size" in told["spatial"][0]
    assert "network with classes" in told["Inception"][0]
    held_out = replace(many.controls[1], figures=replace(many.controls[1].figures, images=900, frechet=None))
    fewer = replace(many, controls=(many.controls[0], held_out, *many.controls[2:]))
    head = Page(whole(fewer)).text.partition("Figures and controls")[0]
    assert "not given" in head
    assert interval_parts(held_out.figures.kid)[0] in head  # stands in
    assert rows(fewer)["Fréchet"].count("—") == 1


def test_columns_that_would_be_the_same_are_shown_once(evaluation):
    alike = replace(evaluation, figures=replace(evaluation.figures, images=120))
    assert len(Page(whole(alike)).cells("KID ")) == 4


def test_empty_parts_are_left_out(evaluation):
    parts = {"by_size": "By size", "by_shape": "By shape", "by_label": "By label", "signatures": "Known failures"}
    full = Page(whole(evaluation)).text
    for part, title in parts.items():
        assert title in full
        assert title not in Page(whole(replace(evaluation, **{part: ()}))).text
    bare = Page(whole(replace(evaluation, nearest=()), made=[], nearest=[], real=[]))
    assert bare.images() == []
    assert "Samples" not in bare.text
    assert "Held-out real images" not in bare.text
    assert "4.75" in bare.text  # the memorisation figure needs no pictures


def test_pictures_are_inside_at_their_shape_and_are_never_enlarged(evaluation):
    made = [picture(Size(*size), 1) for size in ((40, 64), (512, 256), (30, 600))]
    page = Page(whole(evaluation, made=made, nearest=[], real=[]))
    sizes = []
    for attributes in page.images():
        kind, _, data = attributes["src"].partition(",")
        assert kind == "data:image/webp;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (int(attributes["width"]), int(attributes["height"])) == shown.size
        sizes.append(shown.size)
    assert sizes == [(64, 40), (96, 192), (192, 10), (64, 40), (64, 128), (128, 6)]  # the sheet, then the pairs
    small = Page(whole(evaluation, made=PICTURES, nearest=[], real=[]))
    assert {(a["width"], a["height"]) for a in small.images()[:4]} == {("192", "120")}  # px by px: the data stays small
    first = Image.open(io.BytesIO(base64.b64decode(small.images()[0]["src"].partition(",")[2])))
    assert np.abs(np.asarray(first).astype(int) - np.asarray(PICTURES[0])).mean() < 8


def test_pairs_stand_together_and_absent_ones_are_said_to_be(evaluation):
    text = whole(evaluation, nearest=[PICTURES[1], None, PICTURES[2]], real=[])
    page = Page(text)
    assert page.text.count("not at hand") == 2
    assert [a["alt"] for a in page.images()[4:]] == ["m0", "t0.png", "m1", "m2", "t2.png", "m3"]
    assert re.search(r"m1 at 1.25 from t1.png : nearer than 88% of held-out images", page.text)
    assert [a["alt"] for a in page.images()[:4]] == ["m0", "m1", "m2", "m3"]


def test_a_full_page_is_below_two_megabytes(evaluation):
    pictures = [picture(Size(256, 256), seed) for seed in range(48)]
    nearest = tuple(replace(evaluation.nearest[0], made=f"m{i}.png") for i in range(48))
    text = whole(replace(evaluation, nearest=nearest), made=pictures, nearest=pictures, real=pictures)
    assert len(Page(text).images()) == 4 * 48
    assert len(text.encode()) < 2e6


def test_a_comparison_says_which_is_better_and_where_that_cannot_be_told(evaluation):
    other = replace(evaluation, settings={"seed": 54321, "same": 1}, figures=evaluation.figures)
    first = replace(evaluation, settings={"seed": 12345, "same": 1})
    compared = comparison_of(first, other, kid=(-0.3, -0.1), precision=(-0.2, -0.1), recall=(0.1, 0.2), density=(-1, 1))
    page = Page(comparison_page(compared, a=PICTURES, b=PICTURES))
    words = {"KID": "B is better", "precision": "A is better", "recall": "B is better", "density": "no difference"}
    for one, (name, text) in zip(compared.differences, words.items(), strict=True):
        assert all(
            near(cell, value)
            for cell, value in zip(page.cells(f"{name} "), (one.a, one.b, one.difference), strict=True)
        )
        (row,) = [row for row in page.rows if row[0].strip().startswith(f"{name} ")]
        assert text in row[0]
        assert text in next(line for line in comparison_text(compared).splitlines() if line.startswith(name))
    told = [a for tag, a in page.tags if tag == "small" and a.get("class") == "told"]
    assert len(told) == 3
    assert "excludes 0 for KID (colours), precision (colours), recall (colours); for the others" in page.text
    differing = [[cell.strip() for cell in row] for row in page.rows]
    assert ["seed", "12345", "54321"] in differing
    assert not any(row[0] in ("same", "version.torch") for row in differing)
    neither = Page(comparison_page(comparison_of(first, other, kid=(-1, 1)), a=[], b=[]))
    assert "No interval excludes 0" in neither.text
    assert neither.images() == []
    assert "Samples" not in neither.text


def test_missing_libraries_name_the_extra(evaluation, sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match=r"anyres\[evaluate\]"):
        whole(evaluation)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r"anyres\["):
        sweep_plots(sweep)
