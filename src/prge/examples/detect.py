"""The form of a user's data, told from their columns: which is text, which is a class, and what is to be learned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import Form, template_columns
from prge.examples.read import Record, part_file, read_records
from prge.options import Option

# Names that columns often have, the likeliest first.
TEXTS = ("text", "sentence", "content", "review", "message", "body", "utterance", "document", "tweet", "comment")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("passage", "question"))
LABELS = ("label", "class", "category", "sentiment", "intent", "topic", "emotion", "stars", "rating")
PROMPTS = ("instruction", "prompt", "question", "input", "source")
ANSWERS = ("output", "response", "completion", "answer", "target", "summary", "reply")
KNOWN = {*TEXTS, *LABELS, *PROMPTS, *ANSWERS, *(name for pair in PAIRS for name in pair), "choices", "messages"}


@dataclass(frozen=True)
class FormOptions:
    """What a user says of the examples' form. What is left out is the task's, or inferred from the data.

    Attributes:
        label: the column of the classes (no ``=`` in it); or ``NAME=WORD``, a class and its label word, for each class.
    """

    task: Annotated[str | None, Option("One of `prge tasks`.")] = None
    text: Annotated[str | None, Option("The data's column of text.")] = None
    label: Annotated[
        tuple[str, ...],
        Option(
            "The data's column of classes; or NAME=WORD, a class and its label word, once per class.",
            ("--label", "--label-column"),
        ),
    ] = ()
    template: Annotated[str | None, Option("The prompt, with the data's columns in braces.")] = None
    target: Annotated[str | None, Option("Template of the text to learn, instead of classes.")] = None
    choices: Annotated[
        str | None, Option("The column that holds a list of candidates; write {choice} in the target.")
    ] = None
    max_tokens: Annotated[int | None, Option("Longest row; default: what the data need, or 128.", least=2)] = None
    max_targets: Annotated[
        int | None, Option("Most target tokens of an example; default: what the data need, or 32.", least=1)
    ] = None

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """(class name, label word) pairs.

        Raises:
            UserError: one side of a pair is empty.
        """
        pairs = [text.partition("=") for text in self.label if "=" in text]
        for name, _, word in pairs:
            if not (name and word):
                raise UserError(f"--label {name}={word}: write NAME=WORD, as '1= great', or the column of the classes")
        return tuple((name, word) for name, _, word in pairs)

    @property
    def label_column(self) -> str | None:
        """The column of the classes, if it was named.

        Raises:
            UserError: several were.
        """
        columns = [text for text in self.label if "=" not in text]
        if len(columns) > 1:
            raise UserError(f"--label names several columns ({', '.join(columns)}); give one, or NAME=WORD pairs")
        return columns[0] if columns else None


def form_of(asked: FormOptions, data: Path | None) -> Form:
    """The form that was asked for.

    What was left out is the task's. Without a task it is inferred from the data, and without data it has a default.

    Raises:
        UserError: the data cannot be read, or no form fits them.
    """
    if asked.task:
        form = Form.of_task(asked.task)
        if asked.text or asked.choices or asked.label_column:
            raise UserError(f"the columns of --task {asked.task} are its own; leave --text, --choices and --label out")
    elif data is not None:
        form = infer(read_rows(part_file(data, "train")), asked)
    else:
        template = Form.template if asked.text is None else _prompt([asked.text])
        form = Form(template, max_tokens=128, max_targets=32)
    given: dict[str, Any] = {
        "template": asked.template,
        "labels": asked.words or None,
        "label_column": asked.label_column,
        "target": asked.target,
        "choices": asked.choices,
        "max_tokens": asked.max_tokens,
        "max_targets": asked.max_targets,
    }
    form = replace(form, **{name: value for name, value in given.items() if value is not None})
    if asked.target and form.labels and not asked.words:  # the user wants text where classes were inferred
        form = replace(form, labels=())
    return form


def read_rows(file: Path) -> list[Record]:
    """The rows of a file. A TSV without a header has the columns ``text`` and ``label``.

    A TSV has a header if its first line holds a known name, or names of which none is a value further down.
    """
    columns: Sequence[str] = ("text", "label")
    if file.suffix.lower() == ".tsv" and file.is_file():
        with file.open(encoding="utf-8-sig", errors="replace") as f:
            lines = [line.rstrip("\r\n").split("\t") for line, _ in zip(f, range(1000), strict=False)]
        first = lines[0] if lines else []
        names = [name.strip() for name in first]
        recurs = any(cell == row[i] for row in lines[1:] for i, cell in enumerate(first) if i < len(row))
        if set(names) & KNOWN or (all(name.isidentifier() for name in names) and not recurs):
            columns = names
    return [row for _, row in read_records(file, columns)]


def infer(rows: Sequence[Record], asked: FormOptions) -> Form:
    """The form of the user's own data: chat, multiple choice, text to text, classification, or plain text.

    Raises:
        UserError: the columns say none of these. The message says which option would.
    """
    columns = [name for name in rows[0] if all(name in row for row in rows)]
    texts = [name for name in columns if all(isinstance(row[name], str) for row in rows)]
    for name in filter(None, (asked.text, asked.label_column, asked.choices)):
        if name not in columns:
            raise UserError(f"no column {name!r} in every row; there are {', '.join(columns)}")
    if "messages" in columns and not (asked.text or asked.template):
        return Form("{prompt}", target="{answer}", chat=Chat(""))
    choices = asked.choices or next((name for name in columns if _is_choices(rows, name)), None)
    if choices:
        answer = asked.label_column or _first(texts, ("label", "answer", "answerKey", "gold", "correct"))
        question = asked.text or _first(texts, (*PROMPTS, *TEXTS))
        if answer and question:
            template = f"{{{_named(question)}}}\nAnswer:"
            return Form(template, target=" {choice}", choices=choices, label_column=answer)
    if asked.target:
        used = template_columns(asked.target)
        text = [asked.text] if asked.text else [name for name in texts if name not in used]
        return Form(asked.template or _prompt(text), target=asked.target)
    label = asked.label_column or (None if asked.words else _label(rows, texts, asked.text))
    if label or asked.words:
        label = label or _first(texts, LABELS) or Form.label_column
        names = Counter(row[label] for row in rows) if label in texts else Counter(n for n, _ in asked.words)
        inputs = _inputs(rows, [name for name in texts if name != label], asked.text)
        template = f"{_prompt(inputs)}\n{label.replace('_', ' ').capitalize()}:"
        return Form(template, tuple((name, "") for name in sorted(names, key=_order)), label_column=label)
    answer = _first(texts, ANSWERS)
    prompts = [asked.text] if asked.text else [name for name in PROMPTS if name in texts]
    if answer and prompts and answer not in prompts:
        return Form(f"{_prompt(prompts)}\n{answer.capitalize()}:", target=f" {{{answer}}}")
    plain = asked.text or (texts[0] if len(texts) == 1 else _first(texts, TEXTS))
    if not plain:
        raise UserError(
            f"what is to be learned from the columns {', '.join(columns)}? name the text with --text and the classes "
            "with --label, or give a --target template"
        )
    return Form("", target=f"{{{_named(plain)}}}")


def _first(columns: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in columns), None)


def _named(column: str) -> str:
    if not column.isidentifier():
        better = re.sub(r"\W+", "_", column)
        raise UserError(f"column {column!r} cannot stand in a template; rename it to {better!r}")
    return column


def _prompt(columns: Sequence[str]) -> str:
    """A template of one text; or of several, each after its name."""
    names = [_named(column) for column in columns]
    if len(names) == 1:
        return f"{{{names[0]}}}"
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {{{name}}}" for name in names)


def _is_choices(rows: Sequence[Record], name: str) -> bool:
    return all(
        isinstance(row[name], list) and len(row[name]) > 1 and all(isinstance(x, str) for x in row[name])
        for row in rows
    )


def _label(rows: Sequence[Record], texts: Sequence[str], text: str | None) -> str | None:
    """The column of the classes: one with a usual name, or the only one of few short values that recur."""
    known = _first(texts, LABELS)
    if known and known != text:
        return known
    found = []
    for name in texts:
        values = Counter(row[name] for row in rows)
        few = 2 <= len(values) <= min(20, len(rows) // 2)
        if name != text and few and max(map(len, values)) <= 40:
            found.append(name)
    return found[0] if len(found) == 1 else None


def _inputs(rows: Sequence[Record], texts: Sequence[str], text: str | None) -> list[str]:
    """The columns that are classified: the named one, a known pair, a known name, or the longest text."""
    if text:
        return [text]
    for pair in PAIRS:
        if set(pair) <= set(texts):
            return list(pair)
    known = _first(texts, TEXTS)
    if known or not texts:
        return [known or "text"]
    return [max(texts, key=lambda name: sum(len(row[name]) for row in rows))]


def _order(name: str) -> tuple[float, str]:
    """Sorts numbers by size, and names behind them."""
    return (float(name), "") if re.fullmatch(r"-?\d+(\.\d+)?", name) else (float("inf"), name)


def described(form: Form) -> dict[str, str]:
    """A form as a user should see it before anything starts: lines by their name."""
    kind = "classification" if form.labels else "multiple choice" if form.choices else "text to text"
    if form.chat:
        return {"kind": "chat", "trains on": "the assistant's messages", **_bounds(form)}
    if not form.template:
        kind = "plain text"
    shown = {"kind": kind, "prompt": repr(form.template)}
    if form.target:
        shown["target"] = repr(form.target)
    if form.labels:
        shown["classes"] = ", ".join(f"{name} ={word}" for name, word in form.labels)
    if form.choices:
        shown["choices"] = form.choices
    if form.labels or form.choices:
        shown["label column"] = form.label_column
    return {**shown, **_bounds(form)}


def _bounds(form: Form) -> dict[str, str]:
    bounds = {"most tokens": str(form.max_tokens)}
    return bounds if form.labels else bounds | {"most target tokens": str(form.max_targets)}
