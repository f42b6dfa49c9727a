"""What an example is, and a file's rows as records that its templates can be filled with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.read import Part, Record, part_file, place, read_records
from prge.examples.task_rows import hub_rows
from prge.examples.tasks import find_task
from prge.files.bounded import TEXT
from prge.manifest import Manifest, template_columns

Numbered = tuple[int, Record]


@dataclass(frozen=True)
class Form:
    """What an example is.

    Attributes:
        template: the prompt.
        labels: (name, label word) of every class; an empty word is still to be chosen.
        label_column: of the class's name, or of the right choice.
        target: template of the text to learn, where there are no labels.
        choices: the column of candidates, of which ``{choice}`` is one; empty where there are none.
        chat: how messages become ``prompt`` and ``answer``; its template is empty while the tokenizer is unknown.
        task: a name in TASKS, whose files are read in its own way.
        max_tokens, max_targets: bounds; None where the data are to be measured.
    """

    template: str = "{text}"
    labels: tuple[tuple[str, str], ...] = ()
    label_column: str = "label"
    target: str = ""
    choices: str = ""
    chat: Chat | None = None
    task: str = ""
    max_tokens: int | None = None
    max_targets: int | None = None

    @classmethod
    def of(cls, m: Manifest) -> Form:
        """A program's."""
        labels = tuple((label.name, label.word) for label in m.labels)
        chat = Chat(m.chat_template, m.special_tokens) if m.chat_template else None
        return cls(
            m.template, labels, m.label_column, m.target, m.choices, chat, m.task, m.max_tokens, m.max_targets
        )  # fmt: skip

    @classmethod
    def of_task(cls, name: str) -> Form:
        """A task's."""
        t = find_task(name)
        choices = "choices" if t.kind == "multiple choice" else ""
        return cls(
            t.template, t.labels, target=t.target, choices=choices, task=name, max_tokens=t.max_tokens,
            max_targets=t.max_targets,
        )  # fmt: skip

    @property
    def open(self) -> bool:
        """Whether it is a task's or inferred, so that what a model needs may be added."""
        return bool(self.task) or self.max_tokens is None

    @property
    def columns(self) -> list[str]:
        """The columns that an example is made of."""
        columns = template_columns(self.template) + template_columns(self.target)
        return columns + [self.label_column] * bool(self.labels or self.choices)

    def records(self, data: Path | None, part: Part = "train") -> list[Numbered]:
        """The records of a file, with its line numbers; of a folder's or the hub's part.

        Several records of one row (turns of a conversation, answers to a question) share its number.

        Raises:
            UserError: as `read_records`; no data given, and no task whose data the hub has.
        """
        if data is None:
            if not self.task:
                raise UserError("give the examples with --data; only the data of a named task come from the hub")
            rows: Iterable[Numbered] = enumerate(hub_rows(*find_task(self.task).hub, part), 1)
            where = self.task
        else:
            file = part_file(data, part)
            task = find_task(self.task) if self.task else None
            columns = task.columns if task else self.columns
            rows = read_records(file, columns, [name for name, _ in task.renamed] if task else [])
            where = str(file)
        records = [(n, record) for n, row in rows for record in self.unfold(row, place(where, n))]
        if Path(where).suffix == ".json":  # one document may hold them all
            return [(i, record) for i, (_, record) in enumerate(records, 1)]
        return records

    def unfold(self, row: Record, where: str) -> list[Record]:
        """The records in one row."""
        if self.task:
            return find_task(self.task).records(row, where)
        if self.chat:
            return self.chat.records(row, where)
        if self.choices:
            return [chosen(row, self.choices, self.label_column, where)]
        return [row]

    def text(self, record: Record) -> str:
        """What tells records apart: prompt and target, without a label."""
        return fill(self.template, {"mask": "", **record}, "the data") + fill(self.target, record, "the data")


def fill(template: str, record: Record, where: str) -> str:
    """A template with a record's columns in it.

    Raises:
        UserError: a column is missing, or holds a list.
    """
    columns = template_columns(template)
    try:
        for name in columns:
            if not isinstance(record[name], str):
                kind = type(record[name]).__name__
                raise UserError(f"{where}: column {name!r} holds a {kind}; a template takes text")
        text = template.format_map(record)
        size = len(text.encode())
    except KeyError as e:
        if e.args == ("choice",):
            raise UserError(f"{where}: no label, so that the right choice is unknown") from e
        raise UserError(f"{where}: no column {e} for the template {template!r}; it has {', '.join(record)}") from e
    except UnicodeEncodeError as e:
        raise UserError(f"{where} is not text: {e}") from e
    if size > TEXT:
        raise UserError(f"{where}: a text of {size:,} bytes; prge takes up to {TEXT:,}: split it into several")
    return text


def chosen(row: Record, choices: str, label_column: str, where: str) -> Record:
    """A row with its right ``choice``: the label is the choice itself, its letter, or its index from 0."""
    held, label = row.get(choices), row.get(label_column)
    if not isinstance(held, list) or len(held) < 2 or not all(isinstance(choice, str) for choice in held):
        raise UserError(f"{where}: column {choices!r} must be a list of at least two texts")
    if label is None:
        return row
    names = {chr(ord("A") + i): i for i in range(len(held))} | {str(i): i for i in range(len(held))}
    names |= {choice: i for i, choice in enumerate(held)}
    if label not in names:
        raise UserError(f"{where}: {label_column} {label!r} is none of the choices, nor a letter or index of one")
    return {**row, label_column: str(names[label]), "choice": held[names[label]]}


def split(
    records: Sequence[Numbered], text: Callable[[Record], str], fraction: float, seed: int
) -> tuple[list[Numbered], list[Numbered]]:
    """(train, dev): a share of the distinct rows for dev; equal ones, and all of one row, stay on one side."""
    first: dict[int, str] = {}
    for number, record in records:
        if number not in first:
            first[number] = text(record)
    distinct = list(dict.fromkeys(first.values()))
    random.Random(seed).shuffle(distinct)
    dev = set(distinct[: max(1, round(len(distinct) * fraction))])
    return [r for r in records if first[r[0]] not in dev], [r for r in records if first[r[0]] in dev]
