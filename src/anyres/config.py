"""Frozen dataclasses ↔ JSON, strict both ways.

Reading refuses an unknown field, a missing one and a value of the wrong type, and names where it stands; so a
misspelt setting is never ignored. Supported field types: bool, int, float, str, None, `Literal`, `tuple[X, ...]`
and fixed tuples, `dict[str, X]`, unions of these, and dataclasses of them; `Any` takes what JSON gives.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(kind: type[T], data: Any, where: str = "config") -> T:
    """Build a dataclass from JSON values.

    Args:
        kind: the dataclass.
        data: a JSON object with its fields; those with a default may be left out.
        where: how messages name the object.

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {data!r}", wanted="a JSON object", fix="write the fields as an object")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    for name in data:
        if name not in fields:
            raise ConfigError(
                f"{where} has an unknown field {name!r}",
                wanted=f"one of {', '.join(fields)}",
                fix=suggestion(name, fields) or "remove it",
            )
    hints = typing.get_type_hints(kind)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _read(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} lacks the field {name!r}", wanted=f"{name}: {hints[name]}", fix="add it")
    return kind(**values)


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """One line for each field in which two dataclasses of one kind differ: `model.depth: 6 → 8`."""
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            yield from differences(before, after, f"{prefix}{field.name}.")
        elif before != after:
            yield f"{prefix}{field.name}: {before} → {after}"


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """A hint such as "did you mean 'xl'?", or None where no known name is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(lowered[c]) for c in close)}?" if close else None


def require(condition: bool, got: str, wanted: str, fix: str = "change it") -> None:
    """Raise `ConfigError` unless the condition holds; for the checks of a dataclass's `__post_init__`."""
    if not condition:
        raise ConfigError(f"got {got}", wanted=wanted, fix=fix)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _read(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, where)
    if origin is Literal:
        options = typing.get_args(hint)
        # 1 == True == 1.0 in Python, and not in JSON
        if any(type(value) is type(option) and value == option for option in options):
            return value
        raise ConfigError(
            f"{where} is {value!r}",
            wanted=f"one of {', '.join(map(repr, options))}",
            fix=suggestion(str(value), [str(option) for option in options]) or "use one of them",
        )
    if hint is Any:
        return value
    if origin is dict and isinstance(value, dict):
        return {key: _read(typing.get_args(hint)[1], part, f"{where}.{key}") for key, part in value.items()}
    if origin is tuple:
        return _read_tuple(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(Any, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is a subclass of int, but `depth: true` is a mistake
    if type(value) is hint or (hint is types.NoneType and value is None):
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{where} is NaN", wanted="a number", fix="set it")
        return value
    raise ConfigError(
        f"{where} is {value!r} ({type(value).__name__})",
        wanted=getattr(hint, "__name__", str(hint)),
        fix="write a value of that type",
    )


def _read_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    real = [option for option in options if option is not types.NoneType]
    if len(real) == 1:
        return _read(real[0], value, where)
    for option in real:
        try:
            return _read(option, value, where)
        except ConfigError:
            continue
    raise ConfigError(
        f"{where} is {value!r}",
        wanted=f"one of the types {', '.join(getattr(o, '__name__', str(o)) for o in options)}",
        fix="write a value of one of them",
    )


def _read_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}", wanted="a list", fix="write it as a list")
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{where} has {len(value)} values", wanted=f"{len(items)}", fix="give that many")
    return tuple(_read(item, part, f"{where}[{i}]") for i, (item, part) in enumerate(zip(items, value, strict=True)))
