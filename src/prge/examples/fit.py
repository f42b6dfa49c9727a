"""What reading a file's columns as one of the formats gives, and how prompts are worded of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prge.errors import UserError
from prge.examples.form import Form, is_name

# What it would mean, and the fields of `FormOptions` that say so.
Way = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Fit:
    """A format that fits a file.

    Attributes:
        form: of the file's examples.
        notes: what is worth saying of it.
        offers: columns of classes that are not used.
        rivals: ways to read it that are as near: (what is learned, the options that say so).
    """

    form: Form
    notes: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    rivals: tuple[Way, ...] = ()


def prompt_of(columns: Sequence[str]) -> str:
    """A template of one text; or of several, each after its name."""
    names = [named(column) for column in columns]
    if len(names) == 1:
        return f"{{{names[0]}}}"
    return "\n".join(f"{caption(name)}: {{{name}}}" for name in names)


def caption(column: str) -> str:
    """A column's name as a prompt shows it."""
    return column.replace("_", " ").strip().capitalize().replace("{", "{{").replace("}", "}}")


def named(column: str) -> str:
    """A column's name, if a template can name it."""
    if not is_name(column):
        raise UserError(f"column {column!r} cannot stand in a template: rename it, without any of . : ! [ ] {{ }}")
    return column
