"""The form of a user's data, told from their columns: which is text, which is a class, and what is to be learned."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from prge.errors import UserError
from prge.examples.choices import is_choices
from prge.examples.class_columns import labelled
from prge.examples.columns import Columns
from prge.examples.fit import Fit, Way, caption, named, prompt_of
from prge.examples.form import Form, template_columns
from prge.examples.formats import FORMATS
from prge.examples.keep import classes_as_text, classes_of
from prge.examples.names import ANSWERS, IDS, LABELS, PROMPTS, TEXTS, key
from prge.examples.read import Record, part_file, read_file
from prge.options import Option

# So many classes and columns are shown by their names.
_SHOWN = 20
# And so many classes in several spellings.
_SPELLED = 5
# So many letters of a column's name.
_LONG = 40


class Unsure(UserError):
    """Two readings of a file are near each other, or one needs a yes.

    Attributes:
        question: what is unsure, in a sentence.
        ways: the readings, the likeliest first.
    """

    def __init__(self, question: str, ways: Sequence[Way]):
        self.question, self.ways = question, ways
        super().__init__(f"{question}; say which: {', or '.join(f'{words(o)} ({what})' for what, o in ways)}")


def words(options: dict[str, Any]) -> str:
    """Fields of `FormOptions` as they are written on a command line."""
    found: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        texts = [value] if isinstance(value, str) else [] if value is True else value
        found += [word for text in texts for word in (option, text)] or [option]
    return shlex.join(found)


@dataclass(frozen=True)
class FormOptions:
    """What a user says of the examples' form. What is left out is the task's, or inferred from the data.

    Attributes:
        label: the column of the classes (no ``=`` in it); or ``NAME=WORD``, a class and its label word, for each class.
    """

    task: Annotated[str | None, Option("One of `prge tasks`.")] = None
    format: Annotated[str | None, Option("The data's format, where it is mistaken: " + ", ".join(FORMATS) + ".")] = None
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
    merge_labels: Annotated[
        bool, Option("Take labels that differ by case or white space alone as one.", ("--merge-labels",))
    ] = False
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


@dataclass(frozen=True)
class Reading:
    """How a user's data are read.

    Attributes:
        form: what an example is.
        format: the name of the format in `FORMATS`; empty where the options say all.
        notes: what is worth saying of it, in sentences.
    """

    form: Form
    format: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def told(self) -> dict[str, str]:
        """What a result says of it."""
        return {"notes": "; ".join(self.notes)} if self.notes else {}


def read_form(asked: FormOptions, data: Path | None) -> Reading:
    """The form that was asked for.

    What was left out is the task's. Without a task it is inferred from the data, and without data it has a default.

    Raises:
        UserError: the data cannot be read, or no form fits them.
        Unsure: several do.
    """
    if asked.task:
        if asked.text or asked.choices or asked.label_column or asked.format:
            raise UserError(
                f"the columns of --task {asked.task} are its own; leave --text, --choices, --label and --format out"
            )
        form = Form.of_task(asked.task)
        # The data have bounds of their own.
        reading = Reading(form if data is None else replace(form, max_tokens=None, max_targets=None))
    elif data is not None:
        contents = read_file(part_file(data, "train"))
        reading = infer([row for _, row in contents.rows], asked, contents.notes)
    else:
        template = Form.template if asked.text is None else prompt_of([asked.text])
        reading = Reading(Form(template, max_tokens=128, max_targets=32))
    given: dict[str, Any] = {
        "template": asked.template,
        "labels": asked.words or None,
        "label_column": asked.label_column,
        "target": asked.target,
        "choices": asked.choices,
        "max_tokens": asked.max_tokens,
        "max_targets": asked.max_targets,
    }
    form = replace(reading.form, **{name: value for name, value in given.items() if value is not None})
    if asked.target and form.labels and not asked.words:  # the user wants text where classes were inferred
        form = replace(form, labels=())
    return replace(reading, form=form)


def infer(rows: Sequence[Record], asked: FormOptions, notes: Sequence[str] = ()) -> Reading:
    """How the user's own data are read: by the options, or by the first of `FORMATS` that fits.

    Args:
        notes: what is to be said of the file.

    Raises:
        UserError: none fits. The message says which option would help.
        Unsure: two readings are near, or labels differ by their spelling alone.
    """
    columns = Columns(rows)
    for name in filter(None, (asked.text, asked.label_column, asked.choices)):
        if name not in columns.names:
            raise UserError(f"no column {name!r}; there are {_named_all(columns, notes)}")
    name, fit = _by_options(columns, asked) or _by_format(columns, asked, notes)
    if fit.rivals:
        raise Unsure(f"two readings of the columns {_named_all(columns, notes)} are near", fit.rivals)
    form = fit.form
    column = form.label_column if form.labels else classes_as_text(form)
    if column in columns and not asked.words and not asked.merge_labels and not form.task:
        spellings = classes_of(columns[column].cells).spellings
        if spellings:
            shown = [", ".join(f"{s!r} ({n:,})" for s, n in each) for each in spellings.values()]
            more = [f"and so on for {len(shown) - _SPELLED:,} other classes"] if len(shown) > _SPELLED else []
            question = "; ".join([*shown[:_SPELLED], *more])
            question = f"labels in column {column!r} differ by case or white space alone: {question}"
            raise Unsure(question, [("each is taken as its commonest spelling", {"merge_labels": True})])
    offers = [f"{n!r} is not used; to learn its classes instead: --label {shlex.quote(n)}" for n in fit.offers]
    more = [] if form.task else _few(rows)
    return Reading(form, name, [*notes, *fit.notes, *offers, *_unused(columns, form, fit.offers), *more])


def _named_all(columns: Columns, notes: Sequence[str]) -> str:
    """The names of all columns, and what is to be said of them."""
    names = [name if len(name) <= _LONG else name[: _LONG - 3] + "..." for name in columns.names]
    more = len(names) - _SHOWN
    shown = [*names[:_SHOWN], f"and {more} more"] if more > 0 else names
    return ", ".join(shown) + "".join(f" ({note})" for note in notes)


def _by_options(columns: Columns, asked: FormOptions) -> tuple[str, Fit] | None:
    """The fit that the options ask for; None where they leave it open."""
    if asked.choices and asked.choices in columns.names:
        answer = asked.label_column or columns.first(("label", "answer", "answer key", "gold", "correct"))
        question = asked.text or columns.first((*PROMPTS, *TEXTS))
        if answer and question and is_choices(columns.rows[0].get(asked.choices)):
            form = Form(
                f"{prompt_of([question])}\nAnswer:", target=" {choice}", choices=asked.choices, label_column=answer
            )
            return "choices", Fit(form)
    if asked.target:
        used = {*template_columns(asked.target), *([asked.label_column] if asked.label_column else [])}
        inputs = [asked.text] if asked.text else _inputs(columns, used)
        return "text-to-text", Fit(Form(asked.template or prompt_of(inputs), target=asked.target))
    if asked.label_column or asked.words:
        label = asked.label_column or columns.first(LABELS) or Form.label_column
        if label in columns:
            fit = labelled(columns, label, asked.text)
            if fit is None:
                raise UserError(f"no column of text beside {label!r}; name it with --text")
            return "labels", fit
        template = f"{prompt_of([asked.text] if asked.text else _inputs(columns, {label}))}\n{caption(label)}:"
        return "labels", Fit(Form(template, tuple((name, "") for name, _ in asked.words), label_column=label))
    if asked.text and not asked.format:
        answer, classes = columns.first(ANSWERS), columns.first(LABELS)
        if answer and answer != asked.text:
            return "text-to-text", Fit(
                Form(f"{prompt_of([asked.text])}\n{caption(answer)}:", target=f" {{{named(answer)}}}")
            )
        fit = labelled(columns, classes, asked.text) if classes and classes != asked.text else None
        return ("labels", fit) if fit else ("text", Fit(Form("", target=f"{{{named(asked.text)}}}")))
    return None


def _inputs(columns: Columns, used: set[str]) -> list[str]:
    """The columns of text that a prompt of the user's own data is made of."""
    others = [column for column in columns if column.values and column.name not in used]
    return [c.name for c in others if c.free] or [c.name for c in others] or [Form.label_column]


def _by_format(columns: Columns, asked: FormOptions, notes: Sequence[str]) -> tuple[str, Fit]:
    """The format that was named, or the first that fits."""
    if asked.format:
        if asked.format not in FORMATS:
            raise UserError(f"no format is called {asked.format!r}; there are {', '.join(FORMATS)}")
        fit = FORMATS[asked.format].read(columns)
        if fit is None:
            raise UserError(
                f"the format {asked.format} has {FORMATS[asked.format].columns.replace('`', '')}; "
                f"the file has {_named_all(columns, notes)}"
            )
        return asked.format, replace(fit, rivals=())
    for name, known in FORMATS.items():
        fit = known.read(columns)
        if fit and not (fit.form.chat and asked.template):
            return name, fit
    raise UserError(
        f"what is to be learned from the columns {_named_all(columns, notes)}? name the text with --text and the "
        "classes with --label, or give a --target template; or put a line with names first, if these are none"
    )


def _unused(columns: Columns, form: Form, offers: Sequence[str]) -> list[str]:
    """Columns that are no part of an example, and might have been meant to."""
    if form.task or form.chat:
        return []
    left = [c for c in columns if c.values and c.name not in (*form.columns, *offers) and key(c.name) not in IDS]
    shown = [f"{c.name} (the same in all rows)" if c.constant else c.name for c in left]
    shown += [f"{n} (no text)" for n in columns.names if n not in columns and n not in (form.choices, "tools")]
    return [f"not used: {', '.join(shown)}"] if shown else []


def _few(rows: Sequence[Record]) -> list[str]:
    if len(rows) >= 50:
        return []
    what = "one row" if len(rows) == 1 else f"{len(rows)} rows"
    return [f"only {what}: a share of them says little of how well it went; more examples help most"]


def described(form: Form) -> dict[str, str]:
    """A form as a user should see it before anything starts: lines by their name."""
    kind = "classification" if form.labels else "multiple choice" if form.choices else "text to text"
    if form.task:
        kind = f"{kind}, as the task {form.task}"
    if form.chat:
        return {"kind": "chat", "trains on": "the assistant's messages", **_bounds(form)}
    if not form.template:
        kind = "plain text"
    shown = {"kind": kind, "prompt": repr(form.template)}
    if form.target:
        shown["target"] = repr(form.target)
    if form.labels:
        first = [f"{name} ={word}" if word else name for name, word in form.labels[:_SHOWN]]
        more = len(form.labels) - len(first)
        shown["classes"] = ", ".join([*first, f"and {more} more"] if more else first)
    if form.choices:
        shown["choices"] = form.choices
    if form.labels or form.choices:
        shown["label column"] = form.label_column
    return {**shown, **_bounds(form)}


def _bounds(form: Form) -> dict[str, str]:
    targets = None if form.labels else form.max_targets
    bounds = {"most tokens": form.max_tokens, "most target tokens": targets}
    return {name: str(bound) for name, bound in bounds.items() if bound}
