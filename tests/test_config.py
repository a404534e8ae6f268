"""Frozen dataclasses ↔ JSON, strict both ways."""

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.config import differences, from_dict, suggestion, to_dict
from anyres.errors import ConfigError
from anyres.recipes.builtin import RECIPES
from anyres.recipes.summary import EXAMPLE_SUMMARY
from anyres.train.config import OptimizerConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int
    rate: float = 0.5
    kind: Literal["thin", "wide", 3] = "thin"


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    name: str
    flag: bool = False
    pair: tuple[float, int] = (1.0, 2)
    many: tuple[str, ...] = ()
    perhaps: Inner | None = None
    either: int | str = 0
    nested: tuple[Inner, ...] = ()
    made: tuple[int, ...] = field(default_factory=lambda: (1, 2))


reals = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, depth=st.integers(), rate=reals, kind=st.sampled_from(["thin", "wide", 3]))
outers = st.builds(
    Outer,
    inner=inners,
    name=st.text(),
    flag=st.booleans(),
    pair=st.tuples(reals, st.integers()),
    many=st.lists(st.text(), max_size=3).map(tuple),
    perhaps=st.none() | inners,
    either=st.integers() | st.text(),
    nested=st.lists(inners, max_size=3).map(tuple),
    made=st.lists(st.integers(), max_size=3).map(tuple),
)
OUTER = Outer(inner=Inner(depth=1), name="a", nested=(Inner(depth=2),))


def read(**changes) -> Outer:
    """OUTER with some fields as JSON would give them; a dot leads into a part."""
    data = to_dict(OUTER)
    for path, value in changes.items():
        *parents, last = path.split(".")
        part = data
        for parent in parents:
            part = part[parent]
        part[last] = value
    return from_dict(Outer, data)


@given(outers)
def test_through_json_and_back(config: Outer) -> None:
    again = from_dict(Outer, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert type(again.pair[0]) is float
    assert type(again.either) is type(config.either)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_through_json_and_back(name: str) -> None:
    config = RECIPES[name](EXAMPLE_SUMMARY)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_what_has_a_default_may_be_left_out() -> None:
    assert from_dict(Outer, {"inner": {"depth": 1}, "name": "a"}) == Outer(inner=Inner(depth=1), name="a")


def test_an_unknown_field_is_named_with_the_close_one() -> None:
    with pytest.raises(ConfigError, match=r"config\.inner has an unknown field 'dept'") as raised:
        read(**{"inner.dept": 3})
    assert raised.value.fix == "did you mean 'depth'?"
    assert "depth, rate, kind" in raised.value.wanted


def test_an_unknown_field_like_no_other_is_refused_all_the_same() -> None:
    with pytest.raises(ConfigError, match="unknown field 'zzz'") as raised:
        read(zzz=3)
    assert raised.value.fix == "remove it"


@pytest.mark.parametrize(
    ("data", "message"),
    [({"name": "a"}, "config lacks the field 'inner'"), ({"inner": {}, "name": "a"}, r"config\.inner lacks .*'depth'")],
)
def test_a_missing_field_is_named(data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, data)


WRONG = [
    ("inner.depth", True, "bool"),  # bool is a subclass of int
    ("inner.depth", 1.0, "float"),
    ("inner.depth", "1", "str"),
    ("inner.depth", None, "NoneType"),
    ("inner.rate", False, "bool"),
    ("inner.rate", "0.5", "str"),
    ("inner.kind", "thick", "'thin', 'wide', 3"),
    ("inner", 3, "a JSON object"),
    ("name", 3, "int"),
    ("flag", 1, "int"),
    ("flag", "true", "str"),
    ("pair", 3, "a list"),
    ("pair", [1.0], "has 1 values"),
    ("pair", [1.0, 2, 3], "has 3 values"),
    ("many", "abc", "a list"),
    ("perhaps", 3, "a JSON object"),
    ("either", 1.5, "one of the types int, str"),
    ("either", True, "one of the types int, str"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{path}={value}" for path, value, _ in WRONG])
def test_a_value_of_the_wrong_type_is_refused_by_its_place(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(**{path: value})
    assert raised.value.got.startswith(f"config.{path} ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"pair": [1.0, "x"]}, "config.pair[1] "),
        ({"many": ["a", "b", 3]}, "config.many[2] "),
        ({"nested": [{"depth": 1}, {"depth": "2"}]}, "config.nested[1].depth "),
        ({"perhaps": {"depth": True}}, "config.perhaps.depth "),
    ],
)
def test_the_place_leads_through_lists_and_optional_parts(changes: dict, place: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(**changes)
    assert raised.value.got.startswith(place)


@pytest.mark.parametrize("path", ["inner.rate", "pair"])
def test_nan_is_no_setting(path: str) -> None:
    value = json.loads("[NaN, 1]") if path == "pair" else json.loads("NaN")
    with pytest.raises(ConfigError, match=r"config\.(inner\.rate|pair\[0\]) is NaN"):
        read(**{path: value})


def test_a_whole_number_is_a_float_where_one_is_asked_for() -> None:
    rate = read(**{"inner.rate": 3}).inner.rate
    assert (rate, type(rate)) == (3.0, float)


@pytest.mark.parametrize("value", [1, True, 1.0])
def test_a_literal_takes_no_look_alike(value: object) -> None:
    """1 == True == 1.0 in Python, and not in JSON."""

    @dataclass(frozen=True)
    class Kind:
        kind: Literal[1, "one"]

    if type(value) is int:
        assert from_dict(Kind, {"kind": value}).kind == 1
        return
    with pytest.raises(ConfigError, match=r"config\.kind is"):
        from_dict(Kind, {"kind": value})


@pytest.mark.parametrize("data", [None, [], "a", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match="recipe is"):
        from_dict(Outer, data, where="recipe")


def test_a_classs_own_checks_run_on_reading() -> None:
    data = to_dict(OptimizerConfig()) | {"learning_rate": -1.0}
    with pytest.raises(ConfigError, match="learning_rate"):
        from_dict(OptimizerConfig, data)


def test_differences_names_the_fields_that_differ_and_no_other() -> None:
    other = replace(OUTER, inner=replace(OUTER.inner, depth=2), name="b")
    assert list(differences(OUTER, other)) == ["inner.depth: 1 → 2", "name: a → b"]
    assert not list(differences(OUTER, OUTER))
    assert next(differences(OUTER, replace(OUTER, perhaps=Inner(depth=1)))).startswith("perhaps: None → ")


@given(outers, outers)
def test_differences_are_empty_only_for_equals(one: Outer, other: Outer) -> None:
    assert (one == other) == (not list(differences(one, other)))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tutorail", "did you mean 'tutorial'?"), ("MINI", "did you mean 'mini'?"), ("qqqq", None), ("", None)],
)
def test_a_suggestion_is_made_where_a_name_is_close(name: str, hint: str | None) -> None:
    assert suggestion(name, ["tutorial", "mini"]) == hint


def test_configurations_are_frozen() -> None:
    config = RECIPES["tutorial"](EXAMPLE_SUMMARY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3
