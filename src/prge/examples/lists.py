"""Answers and labels that a file holds as lists, as one text."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from prge.examples.names import ANSWERS, LABELS, key


def as_one(column: str, value: Any) -> Any:
    """A list of texts and numbers as one text; any other value as it is.

    In a column of answers each is right, and the first is taken. In one of labels all of them hold.
    """
    if not isinstance(value, list) or not all(isinstance(each, (str, bool, int, float)) for each in value):
        return value
    texts = [each if isinstance(each, str) else json.dumps(each) for each in value]
    return next(iter(texts), "") if is_answer(column) else ", ".join(texts)


def is_answer(column: str) -> bool:
    """Whether a column's name is that of an answer."""
    return _is(column, ANSWERS)


def is_class(column: str) -> bool:
    """Whether a column's name is that of a class."""
    return _is(column, LABELS)


def _is(column: str, known: Collection[str]) -> bool:
    name = key(column)
    return name in known or name.rpartition(" ")[2] in known
