"""Numbers as pages and terminals print them, and places on a plot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.evaluate.estimates import Interval
from anyres.evaluate.rendering import forest, interval_parts
from anyres.evaluate.words import figures_text
from tests.evaluate.made_pages import GIVEN, made_evaluation


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3), st.floats(0, 1e3))
def test_intervals_are_printed_to_equal_decimals_that_mean_something(value, below, above):
    interval = Interval(value=value, low=value - below, high=value + above)
    parts = interval_parts(interval)
    assert len({len(part.partition(".")[2]) for part in parts}) == 1
    size = max(abs(value), below + above)
    for part, number in zip(parts, (interval.value, interval.low, interval.high), strict=True):
        assert float(part.replace(",", "")) == pytest.approx(number, abs=max(0.0051 * size, 1e-6))
        assert part.lstrip("-0.,") or not part.startswith("-")


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_a_forest_is_to_scale(values):
    rows = [("row", Interval(value=v, low=v - below, high=v + above)) for v, below, above in values]
    plot = forest(rows)
    ends = [
        (getattr(m, e), getattr(one, e))
        for m, (_, one) in zip(plot.marks, rows, strict=True)
        for e in ("low", "value", "high")
    ]
    zero = next(place for place, text in plot.ticks if float(text) == 0)
    ticks = [(place, float(text.replace(",", ""))) for place, text in plot.ticks]
    assert all(0 <= place <= 100 for place, _ in [*ends, *ticks])
    place, value = max(ends, key=lambda end: abs(end[1]))
    if abs(value) > 1e-3:  # places have two decimals
        for other, number in [*ends, *ticks]:
            assert other - zero == pytest.approx((place - zero) * number / value, abs=0.05)


def test_the_text_holds_each_figure_and_its_controls():
    evaluation = made_evaluation()
    text = figures_text(evaluation)
    for metric in GIVEN:
        assert str(getattr(evaluation.figures, metric)) in text
        for column in evaluation.controls:
            assert f"{getattr(column.figures, metric).value:.4g}" in text
