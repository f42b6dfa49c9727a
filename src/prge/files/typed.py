"""JSON as dataclasses, with every value of the type that its field declares."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# Whole numbers must fit int64.
_LARGEST = 2**63


def parse_json(data: str | bytes) -> Any:
    """As `json.loads`. Text that is nested too deep, not UTF-8, or holds half a surrogate pair is a ValueError too."""
    text = data if isinstance(data, str) else data.decode()
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as e:
        raise ValueError("nested too deep") from e
    return value


def to_json(value: Any, **form: Any) -> str:
    """As `json.dumps`, but null for a number that is not finite: JSON has no word for it.

    Args:
        form: ``indent`` or ``separators``.
    """
    return json.dumps(_finite(value), allow_nan=False, **form)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(kind: type[T], value: Any) -> T:
    """Make a dataclass of JSON. Its fields are finite numbers, texts, booleans, None, tuples, dicts or dataclasses.

    Raises:
        ValueError: a field is missing, unknown, or of another type. The message has its name.
    """
    parsed: T = _parse(kind, value, "")
    return parsed


def _parse(kind: Any, value: Any, name: str) -> Any:
    if kind in _NAMES:
        return _expect(kind, value, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _fields(kind, _expect(dict, value, name), name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {_short(value)}, none of {', '.join(map(repr, arguments))}")
        return value
    if origin in (Union, UnionType):
        (other,) = (each for each in arguments if each is not type(None))
        return None if value is None else _parse(other, value, name)
    if origin is tuple:
        items = _expect(list, value, name)
        kinds = arguments[:1] * len(items) if arguments[1:] == (...,) else arguments
        if len(items) != len(kinds):
            raise ValueError(f"{name} holds {len(items)} values, not {len(kinds)}")
        return tuple([_parse(each, item, f"{name}[]") for each, item in zip(kinds, items, strict=True)])
    if origin is dict:
        return {key: _parse(arguments[1], item, f"{name}[{key!r}]") for key, item in _expect(dict, value, name).items()}
    raise TypeError(f"fields of type {kind} are none of JSON's")


_hints = cache(get_type_hints)


def _fields(kind: Any, value: dict[str, Any], name: str) -> Any:
    hints, prefix = _hints(kind), f"{name}." if name else ""
    for key in value.keys() - hints.keys():
        raise ValueError(f"unknown field {prefix}{_short(key)}")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"field {prefix}{field.name} is missing")
    return kind(**{key: _parse(hints[key], item, prefix + key) for key, item in value.items()})


def _expect(kind: Any, value: Any, name: str) -> Any:
    if type(value) is int and abs(value) >= _LARGEST:
        raise ValueError(f"{name} is too large a number")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{name or 'it'} is {_short(value)}, not a {_NAMES[kind]}")
    return value


_NAMES = {
    int: "whole number",
    float: "finite number",
    str: "text",
    bool: "truth value",
    dict: "JSON object",
    list: "list",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
