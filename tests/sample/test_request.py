import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.errors import ConfigError
from anyres.grid import Grid, Size
from anyres.packing.pack import PackLayout, PackShape
from anyres.sample.request import ImageRequest, LabelTable, SamplingSettings, make_packs, make_requests
from tests.sample.helpers import LABELS, PX

TABLE = LabelTable(LABELS)


def ask(labels, sizes, seeds=None, **options):
    return make_requests(labels, sizes, seeds, table=TABLE, px_per_token=PX, **options)


def test_labels_by_name_and_by_number():
    assert [TABLE.number(label) for label in ("bridge", 1, "1", " 1 ", "7")] == [1, 1, 1, 1, 4]
    assert TABLE.name(1) == "bridge"


def test_a_misspelt_label_offers_the_close_ones():
    with pytest.raises(ConfigError, match="did you mean 'bridge'"):
        TABLE.number("brigde")


@pytest.mark.parametrize("number", [5, -1, "8", "123456"])
def test_a_number_outside_the_table_names_the_range(number):
    with pytest.raises(ConfigError, match="0 to 4"):
        TABLE.number(number)


@pytest.mark.parametrize("label", ["²", "", "-1", "1.5"])
def test_what_is_no_number_is_an_unknown_name(label):
    with pytest.raises(ConfigError, match="there is no label"):
        TABLE.number(label)


def test_single_values_stand_for_all_and_seeds_count_up():
    requests = ask(["apple", 2, "dune"], "16x8")
    assert [request.label for request in requests] == [0, 2, 3]
    assert {request.size for request in requests} == {Size(8, 16)}
    assert {request.grid for request in requests} == {Grid(1, 2)}
    assert [request.seed for request in requests] == [0, 1, 2]
    assert [request.seed for request in ask("apple", ["16x8", Size(8, 8)], 5)] == [5, 5]
    assert [(r.label, r.size, r.seed) for r in ask([1, 2], ["8x8", "8x16"], [4, 3])] == [
        (1, Size(8, 8), 4),
        (2, Size(16, 8), 3),
    ]


def test_lists_of_different_lengths_name_the_lengths():
    with pytest.raises(ConfigError, match="3 labels, 2 sizes"):
        ask([1, 2, 3], ["8x8", "8x16"])
    with pytest.raises(ConfigError, match="2 seeds"):
        ask([1, 2, 3], "8x8", [1, 2])
    with pytest.raises(ConfigError, match="0 labels"):
        ask([], "8x8")


def test_a_size_that_is_no_multiple_names_the_nearest_or_is_rounded():
    with pytest.raises(ConfigError, match="24x16"):
        ask(1, "23x16")
    assert ask(1, "23x13", round_size=True)[0].size == Size(16, 24)
    assert ask(1, "1x1", round_size=True)[0].size == Size(8, 8)
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        ask(1, "wide")


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": 1, "solver": "sde"},
        {"guidance": -1.0},
        {"guidance_low": 0.8},
        {"guidance_high": 1.5},
        {"last_time": 0.0},
    ],
)
def test_impossible_settings(bad):
    with pytest.raises(ConfigError):
        SamplingSettings(**bad)


def test_changed_settings_keep_the_rest_and_are_checked():
    settings = SamplingSettings(steps=7, guidance=3.0)
    assert settings.changed(steps=None, guidance=1) == SamplingSettings(steps=7, guidance=1.0)
    with pytest.raises(ConfigError, match="did you mean 'heun'"):
        settings.changed(solver="huen")
    with pytest.raises(ConfigError, match="did you mean"):
        settings.changed(extrapolation="ntk-awar")
    with pytest.raises(ConfigError, match="steps"):
        settings.changed(steps="many")


def requests_of(lengths):
    return [ImageRequest(label=0, size=Size(8, 8 * n), grid=Grid(1, n), seed=0) for n in lengths]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 20))
def test_packs_keep_the_order_and_the_budget(lengths, budget):
    requests = requests_of(lengths)
    packs = make_packs(requests, budget)
    assert [request for pack in packs for request in pack] == requests
    totals = [sum(request.grid.tokens for request in pack) for pack in packs]
    assert all(total <= budget or len(pack) == 1 for total, pack in zip(totals, packs, strict=True))
    # and none is cut short: the next image would not have fitted
    assert all(total + pack[0].grid.tokens > budget for total, pack in zip(totals, packs[1:], strict=False))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=30),
    st.integers(12, 40),
    st.integers(12, 16),
    st.integers(0, 6),
)
def test_packs_fit_their_shape(lengths, tokens, longest, more_images):
    shape = PackShape.fitting(tokens, 1 + more_images, longest)
    doubled = PackShape(2 * shape.tokens, 2 * shape.images, shape.max_seqlen)
    for pack in make_packs(requests_of(lengths), 1000, shape):
        grids = [request.grid for request in pack]
        assert PackLayout.from_grids(grids, shape).shape == shape
        assert PackLayout.from_grids(grids * 2, doubled).shape == doubled


def test_a_budget_below_a_token_is_refused():
    with pytest.raises(ConfigError, match="budget of 0"):
        make_packs(requests_of([1]), 0)
