"""Which columns are classes, which texts are classified, and how the classes are spread."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from prge.errors import UserError
from prge.examples.columns import Column, Columns
from prge.examples.fit import Fit, caption, named, prompt_of
from prge.examples.form import Form
from prge.examples.keep import Classes, classes_of
from prge.examples.names import ABOUT, ANSWERS, CONTEXTS, LABELS, PAIRS, PROMPTS, TEXTS, TITLES, key


def labelled(columns: Columns, label: str, text: str | None) -> Fit | None:
    """The fit of texts with a class; None where there is no text."""
    inputs = [text] if text else inputs_of(columns, label)
    if not inputs:
        return None
    ending = f"\n{caption(label)}:"
    found = classes_of(columns[label].cells)
    if len(found.names) < 2:
        raise UserError(
            f"column {label!r} holds no two classes ({', '.join(map(repr, found.names)) or 'it is empty'}), and "
            "training needs two; to learn the text itself: --format text"
        )
    if columns[label].numbers and len(found.names) > max(20, columns[label].values.total() // 2):
        raise UserError(
            f"column {label!r} holds {len(found.names)} different numbers; prge learns classes or text: put the "
            f"numbers into a few groups, learn them as text with --target ' {{{label}}}', or leave them out and learn "
            "the text itself with --format text"
        )
    several = columns.several(label)
    if several:
        note = f"a row may have several labels, as {len(several)} at once: all of them are learned, as text"
        return Fit(Form(prompt_of(inputs) + ending, target=f" {{{named(label)}}}"), (note,))
    if len(found.names) > max(20, columns[label].values.total() // 2):
        note = f"{label!r} has {len(found.names)} different values, so they are learned as text"
        return Fit(Form(prompt_of(inputs) + ending, target=f" {{{named(label)}}}"), (note,))
    names = tuple((name, "") for name in sorted(found.names, key=order))
    return Fit(Form(prompt_of(inputs) + ending, names, label_column=label), class_notes(columns[label], found))


def inputs_of(columns: Columns, label: str) -> list[str]:
    """The columns that are classified: a known pair, a text with what belongs to it, or all that people wrote."""
    for pair in PAIRS:
        found = [name for name in map(columns.find, pair) if name and name != label]
        if len(found) == 2:
            return found
    others = [c for c in columns if c.values and c.name != label and key(c.name) not in (*ANSWERS, *LABELS)]
    known = columns.first(TEXTS)
    if known and known != label:
        beside = {*TITLES, *CONTEXTS, *PROMPTS}
        return [c.name for c in others if c.name == known or (key(c.name) in beside and c.free)]
    free = [c.name for c in others if c.free]
    if free:
        return free
    return [c.name for c in others if not c.identifies]


def order(name: str) -> tuple[float, str]:
    """Sorts numbers by size, and names behind them."""
    try:
        value = float(name)
    except ValueError:
        value = float("nan")
    return (value, "") if value == value and abs(value) != float("inf") else (float("inf"), name)


def class_notes(column: Column, found: Classes) -> tuple[str, ...]:
    """How the classes are spread, where that is worth saying."""
    sizes = dict(sorted(found.sizes.items(), key=lambda item: -item[1]))
    most, total = next(iter(sizes.items())), sum(sizes.values())
    notes = []
    if most[1] > 0.8 * total:
        notes.append(
            f"{most[1] / total:.0%} of the rows are {most[0]!r}: an accuracy up to that is no better than saying so"
        )
    rare = [name for name, n in sizes.items() if n < 5 and total >= 20 * n]
    if rare:
        notes.append(
            f"few examples of {', '.join(map(repr, rare[:5]))}{', ...' if len(rare) > 5 else ''}: fewer than 5"
        )
    if column.numbers and len(sizes) <= 10:
        words = " ".join(f"--label '{name}= WORD'" for name in sorted(found.names, key=order))
        notes.append(
            "the classes are numbers; a model learns faster from words, if they stand for some: "
            f"--label {shlex.quote(column.name)} {words}"
        )
    return tuple(notes)


def label_columns(columns: Columns) -> list[str]:
    """The columns that may be the classes, the likeliest first; one alone where it is clear."""
    known = [name for name in map(columns.find, LABELS) if name and len(columns[name].values) > 1]
    known = [name for name in known if key(name) in LABELS[:6] or _recurs(columns[name]) or columns[name].words <= 4]
    known = _without_copies(columns, known)
    if known and key(known[0]) in LABELS[:6]:
        return known[:1]
    if known:
        return known
    ending = columns.first(LABELS)
    if ending and columns[ending].classes:
        return [ending]
    likely = [c.name for c in columns if c.classes and c.words <= 4 and key(c.name) not in ABOUT]
    return _without_copies(columns, likely)


def _recurs(column: Column) -> bool:
    return 2 * len(column.values) <= column.values.total()


def _without_copies(columns: Columns, names: Sequence[str]) -> list[str]:
    """Columns without those that say the same as another, as numbers do of the names of classes."""
    kept: list[str] = []
    for name in sorted(names, key=lambda name: columns[name].numbers):
        column = columns[name]
        pairs = [{*zip(columns[other].cells, column.cells, strict=True)} for other in kept]
        if not any(len(p) == len({a for a, _ in p}) == len({b for _, b in p}) for p in pairs):
            kept.append(name)
    return sorted(kept, key=list(names).index)
