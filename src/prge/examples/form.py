"""What an example is: its form, and the records that fill the form's templates."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.chat_spellings import as_messages
from prge.examples.choices import CHOICE, chosen
from prge.examples.contents import Contents, RecordNumber
from prge.examples.lists import as_one
from prge.examples.read import Part, Record, part_file, place, read_file
from prge.examples.table import Expected
from prge.examples.task_rows import hub_rows
from prge.examples.tasks import find_task
from prge.files.bounded import TEXT
from prge.manifest import Manifest

# A record, and the number of its line (or of the record itself, in JSON and Parquet).
Numbered = tuple[int, Record]


@dataclass(frozen=True)
class Form:
    """What an example is.

    Attributes:
        template: the prompt, with column names in braces.
        labels: (name, label word) of every class. An empty word is still to be chosen.
        label_column: the column of the class's name, or of the right choice.
        target: template of the text to learn. Only where there are no labels.
        choices: the column that holds the list of choices; empty where there are none. ``{choice}`` in the target (or
            the template) stands for one of them.
        chat: how messages become the columns ``prompt`` and ``answer``. Its template is empty as long as the tokenizer
            is unknown.
        task: a name in `TASKS`, which knows the task's files; or empty.
        max_tokens: the most tokens of a row; None until the data are measured.
        max_targets: the most target tokens of a row; None until the data are measured.
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
        """The form of a program."""
        labels = tuple((label.name, label.word) for label in m.labels)
        chat = Chat(m.chat_template, m.special_tokens) if m.chat_template else None
        return cls(
            m.template, labels, m.label_column, m.target, m.choices, chat, m.task, m.max_tokens, m.max_targets
        )  # fmt: skip

    @classmethod
    def of_task(cls, name: str) -> Form:
        """The form of a task; a UserError if no task has the name."""
        t = find_task(name)
        choices = "choices" if t.kind == "multiple choice" else ""
        return cls(t.template, t.labels, target=t.target, choices=choices, task=name)

    @property
    def open(self) -> bool:
        """Whether prge wrote the template (a task's, or an inferred one), so that it may add what a model needs."""
        return bool(self.task) or self.max_tokens is None

    @property
    def columns(self) -> list[str]:
        """The columns of the data that an example is made of."""
        columns = template_columns(self.template) + template_columns(self.target)
        return columns + [self.label_column] * bool(self.labels or self.choices)

    def records(self, data: Path | None, part: Part = "train") -> list[Numbered]:
        """The rows of `read`, of which none may be broken.

        Raises:
            UserError: as `read`; or a row is broken.
        """
        contents = self.read(data, part)
        contents.check(data or self.task, strict=True)
        return contents.rows

    def read(self, data: Path | None, part: Part = "train") -> Contents:
        """The records of a file, each with the number of its row, and the rows that cannot be read.

        A row may hold several records, as the turns of a conversation. They share its number.

        Args:
            data: a file, or a folder with a file for ``part``; None for the hub's data of the form's task.

        Raises:
            UserError: as `read_file`; more than a few rows are not of the form's kind (`unfold`); or there are no data,
                and no task whose data the hub has.
        """
        if data is None:
            if not self.task:
                raise UserError("give the examples with --data; only the data of a named task come from the hub")
            contents = Contents([*enumerate(hub_rows(*find_task(self.task).hub, part), 1)])
            where = self.task
        else:
            file = part_file(data, part)
            task = find_task(self.task) if self.task else None
            columns = task.columns if task else self.columns
            aliases = [name for name, _ in task.renamed] if task else []
            contents = read_file(file, Expected(columns, aliases, [] if task else [name for name, _ in self.labels]))
            where = str(file)
        if not (self.task or self.chat):
            contents.rows = self._complete(contents.rows)
        found = Contents([], contents.notes, contents.broken)
        for number, row in contents.rows:
            here = place(where, number)
            try:
                found.rows += [(number, record) for record in self.unfold(row, here)]
            except UserError as e:
                found.leave_out(number, str(e).removeprefix(here).removeprefix(": "))
        found.check(where)
        if self.task and Path(where).suffix == ".json":  # one document may hold them all
            found.rows = [(RecordNumber(i), record) for i, (_, record) in enumerate(found.rows, 1)]
        return found

    def _complete(self, rows: Sequence[Numbered]) -> list[Numbered]:
        """Rows with all columns that the form takes, as JSON's may lack what is empty in them, and answers as text."""
        held = {name for _, row in rows for name in row}
        needed = [name for name in self.columns if name in held]
        answers = {*template_columns(self.target), self.label_column}

        def complete(row: Record) -> Record:
            missing = {name: "" for name in needed if name not in row}
            return row | missing | {name: as_one(name, row[name]) for name in answers & row.keys()}

        return [(number, complete(row)) for number, row in rows]

    def unfold(self, row: Record, where: str) -> list[Record]:
        """The records in one row.

        Raises:
            UserError: the row is not of the form's kind.
        """
        if self.task:
            return find_task(self.task).records(row, where)
        if self.chat:
            return self.chat.records(as_messages(row, where), where)
        if self.choices:
            return [chosen(row, self.choices, self.label_column, where)]
        for name in template_columns(self.template) + template_columns(self.target):
            _text_in(row, name, "", where)
        return [row]

    def text(self, record: Record, where: str = "the data") -> str:
        """Prompt and target in one text, which tells a record from others; the label is no part of it."""
        return fill(self.template, {"mask": "", **record}, where) + fill(self.target, record, where)

    def divide(self, records: Sequence[Numbered], fraction: float, seed: int) -> tuple[list[Numbered], list[Numbered]]:
        """(train, dev): the `split` of records of this form, each class on both sides."""

        def of_class(record: Record) -> str:
            return str(record.get(self.label_column, "")) if self.labels else ""

        return split(records, self.text, fraction, seed, of_class)

    def shown(self, record: Record) -> str:
        """A record's text as a person reads it: the columns that the prompt is made of."""
        return " ".join(str(record[name]) for name in dict.fromkeys(template_columns(self.template)))

    def golds(self, record: Record, where: str) -> list[str]:
        """The answers that count as right: those of a list ``answers``, where there is one, or else the target.

        Raises:
            UserError: as `fill`.
        """
        answers = record.get("answers")
        if isinstance(answers, list) and answers and all(isinstance(answer, str) for answer in answers):
            return answers
        return [fill(self.target, record, where)]


def fill(template: str, record: Record, where: str) -> str:
    """A template with a record's columns in it.

    Args:
        where: the record's place, for messages.

    Raises:
        UserError: a column is missing or holds no text, or the text is too large.
    """
    columns = template_columns(template)
    try:
        for name in columns:
            _text_in(record, name, None, where)
        text = _lines_with_text(template, record).format_map(record)
        size = len(text.encode())
    except KeyError as e:
        if e.args == (CHOICE,):
            raise UserError(f"{where}: no label, so the right choice is unknown") from e
        raise UserError(f"{where}: no column {e} for the template {template!r}; it has {', '.join(record)}") from e
    except UnicodeEncodeError as e:
        raise UserError(f"{where} is not text: {e}") from e
    if size > TEXT:
        raise UserError(f"{where}: a text of {size:,} bytes; prge takes up to {TEXT:,}: split it into several")
    return text


def _text_in(record: Record, name: str, missing: str | None, where: str) -> None:
    """Refuse a column that holds no text."""
    value = record[name] if missing is None else record.get(name, missing)
    if not isinstance(value, str):
        raise UserError(f"{where}: column {name!r} holds a {type(value).__name__}; a template takes text")


def _lines_with_text(template: str, record: Record) -> str:
    """A template without the lines whose columns are all empty in a record, as long as one with columns is left.

    So a row without the input that others have does not say ``Input:``.
    """
    if "\n" not in template:
        return template
    held = [(line, template_columns(line)) for line in template.split("\n")]
    kept = [(line, columns) for line, columns in held if not columns or any(record[name] for name in columns)]
    return "\n".join(line for line, _ in kept) if any(columns for _, columns in kept) else template


def split(
    records: Sequence[Numbered],
    text: Callable[[Record], str],
    fraction: float,
    seed: int,
    of_class: Callable[[Record], str] = lambda record: "",
) -> tuple[list[Numbered], list[Numbered]]:
    """(train, dev): a share of the distinct texts goes to dev.

    Equal texts are on the same side, and so are all records of one row. A class of which a side has no text is given
    one, where the class has several.

    Args:
        text: what two equal records have in common.
        fraction: the share, from 0 to 1; dev gets at least one text.
        seed: of the shuffle.
        of_class: a record's class.
    """
    first: dict[int, str] = {}
    classes: dict[str, list[str]] = {}
    for number, record in records:
        if number not in first:
            first[number] = text(record)
            classes.setdefault(of_class(record), []).append(first[number])
    distinct = list(dict.fromkeys(first.values()))
    random.Random(seed).shuffle(distinct)
    dev = set(distinct[: max(1, round(len(distinct) * fraction))])
    order = {each: i for i, each in enumerate(distinct)}
    for texts in classes.values() if len(classes) > 1 else ():
        ranked = sorted(set(texts), key=order.__getitem__)
        if len(ranked) > 1 and not dev & set(ranked):
            dev.add(ranked[0])
        elif len(ranked) > 1 and dev >= set(ranked):
            dev.remove(ranked[-1])
    return [r for r in records if first[r[0]] not in dev], [r for r in records if first[r[0]] in dev]


def template_columns(template: str) -> list[str]:
    """The column names in a template; ``{mask}`` is none.

    Raises:
        UserError: the template holds more than text and names in braces.
    """
    try:
        fields = [field[1:] for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as e:
        raise UserError(f"template {template!r}: {e}") from e
    # Formats and conversions, as in '{text:>9}', are refused: they could ask for gigabytes.
    if any(not is_name(name or "") or form or conversion for name, form, conversion in fields):
        raise UserError(f"template {template!r}: write column names in braces, as '{{text}}'")
    return [str(name) for name, _, _ in fields if name != "mask"]


def is_name(column: str) -> bool:
    """Whether a column can be named in a template."""
    return bool(re.fullmatch(r"[^\s.\[\]{}!:]([^.\[\]{}!:\n]*[^\s.\[\]{}!:])?", column)) and not column.isdecimal()
