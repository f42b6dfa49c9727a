"""Choices: a list of candidates in a row, of which one is right."""

from __future__ import annotations

from typing import Any

from prge.errors import UserError
from prge.examples.read import Record

# ``{choice}`` in a template stands for one of the choices.
CHOICE = "choice"


def is_choices(value: Any) -> bool:
    """Whether a value is a list of candidates, or an object of them by their letters."""
    texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(texts) > 1 and all(isinstance(each, str) for each in texts)


def chosen(row: Record, choices: str, label_column: str, where: str) -> Record:
    """A row with its right choice as the column ``choice``, and that choice's index, from 0, as its label.

    The choices are a list, or an object by their letters. The row's own label is the choice itself, its letter, or its
    index. A row without a label stays without both.

    Raises:
        UserError: the choices are not a list of texts, or the label is none of them.
    """
    if CHOICE in (choices, label_column):
        raise UserError(f"{where}: the column {CHOICE!r} is prge's own; give yours another name")
    held, label, letters = row.get(choices), row.get(label_column), list[str]()
    if isinstance(held, dict):
        letters, held = list(held), list(held.values())
        row = {**row, choices: held}
    if not isinstance(held, list) or len(held) < 2 or not all(isinstance(choice, str) for choice in held):
        raise UserError(f"{where}: column {choices!r} must be a list of at least two texts")
    if label is None or label == "":
        return {name: value for name, value in row.items() if name not in (CHOICE, label_column)}
    names = {chr(ord("A") + i): i for i in range(len(held))} | {str(i): i for i in range(len(held))}
    names |= {text: i for texts in (letters, held) for i, text in enumerate(texts)}
    if not isinstance(label, str) or label not in names:
        raise UserError(f"{where}: {label_column} {label!r} is none of the choices, nor a letter or index of one")
    return {**row, label_column: str(names[label]), CHOICE: held[names[label]]}
