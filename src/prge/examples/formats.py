"""The formats that people's files have, by name: what they are told by, and what is learned from them.

`FORMATS` is the registry, in the order in which they are tried: those with an answer to learn before those with a
class, and plain text last. An entry reads the columns of a file, and gives the form of its examples where it fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.chat_spellings import is_conversation, takes_turns
from prge.examples.choices import is_choices
from prge.examples.class_columns import class_notes, label_columns, labelled, order
from prge.examples.columns import Columns
from prge.examples.fit import Fit, caption, named, prompt_of
from prge.examples.form import Form
from prge.examples.keep import classes_of
from prge.examples.lists import is_answer, is_class
from prge.examples.names import ABOUT, ANSWERS, CHATS, CHOICES, CONTEXTS, LABELS, PROMPTS, TEXTS, TITLES, key


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        columns: what a file of it has, for the table in the documentation.
        learns: what is learned, and after which prompt.
        read: the fit of a file's columns; None where it does not fit.
    """

    columns: str
    learns: str
    read: Callable[[Columns], Fit | None]


def _chat(*held: str, notes: tuple[str, ...] = ()) -> Callable[[Columns], Fit | None]:
    """Conversations, if most rows hold one, and a column of one of these names."""

    def read(columns: Columns) -> Fit | None:
        names = [name for name in columns.names if key(name) in held]
        found = sum(is_conversation(row) and any(map(row.get, names)) for row in columns.rows)
        if 2 * found <= len(columns.rows):
            return None
        turns = ("the texts do not say who speaks: the user begins, and the assistant answers",)
        said = notes + (turns if any(map(takes_turns, columns.rows)) else ())
        return Fit(Form("{prompt}", target="{answer}", chat=Chat("")), said)

    return read


def _task(name: str, *needed: str, when: Callable[[dict[str, Any]], bool] = lambda row: True) -> Format:
    """The usual file of a named task, which is told by its columns."""

    def read(columns: Columns) -> Fit | None:
        held = {key(column) for column in columns.names}
        if not held >= set(needed) or not all(map(when, columns.rows)):
            return None
        form = replace(Form.of_task(name), max_tokens=None, max_targets=None)
        return Fit(form, (f"the columns are those of the task {name}, so its prompt is taken",))

    shown = ", ".join(f"`{each}`" for each in needed)
    return Format(shown, f"as `--task {name}` does", read)


def _values(column: str, *allowed: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: str(row.get(column, "")).strip().casefold() in {"", *allowed}


_TRUTH = ("true", "false", "yes", "no", "0", "1")


def _is_arc(row: dict[str, Any]) -> bool:
    return isinstance(row.get("question"), dict) or isinstance(row.get("choices"), dict)


def _is_squad(row: dict[str, Any]) -> bool:
    asked = isinstance(row.get("answers"), (dict, list)) and "context" in row and "question" in row
    return asked or isinstance(row.get("paragraphs"), list)


def _is_drop(row: dict[str, Any]) -> bool:
    return bool(row) and all(isinstance(passage, dict) and "qa_pairs" in passage for passage in row.values())


def _alpaca(columns: Columns) -> Fit | None:
    prompts, answer = _found(columns, "system", *CONTEXTS, "instruction", "input"), columns.find("output")
    return _answered(columns, prompts, answer) if answer and columns.find("instruction") else None


def _dolly(columns: Columns) -> Fit | None:
    prompts, answer = _found(columns, "system", *CONTEXTS, "instruction", "input"), columns.find("response")
    return _answered(columns, prompts, answer) if answer and columns.find("instruction") else None


def _question(columns: Columns) -> Fit | None:
    asked, answers = columns.find("question"), _found(columns, "answer", "answer text", "response")
    if not asked and columns.find("q"):
        asked, answers = columns.find("q"), _found(columns, "a")
    if not asked or not answers:
        return None
    options = [c.name for c in columns if re.fullmatch(r"[a-h]|(option|choice) ?[a-h1-8]", key(c.name)) and c.values]
    before = _found(columns, "system", "system prompt", *CONTEXTS)
    return _answered(columns, [*before, asked, *(options if len(options) > 1 else [])], answers[0])


def _completion(columns: Columns) -> Fit | None:
    prompt, answer = columns.find("prompt"), columns.find("completion")
    if not (prompt and answer):
        return None
    rows = [(row.get(prompt, ""), row.get(answer, "")) for row in columns.rows]
    spaced = sum(a[-1:].isspace() or b[:1].isspace() for a, b in rows)  # they are put together as they are
    form = Form(
        prompt_of([prompt]), target=f"{{{named(answer)}}}" if 2 * spaced > len(rows) else f" {{{named(answer)}}}"
    )
    return _disputed(columns, Fit(form), answer)


def _preference(columns: Columns) -> Fit | None:
    chosen, note = columns.find("chosen"), ("of each pair `chosen` is learned; what was rejected is not read",)
    if not chosen or not columns.find("rejected"):
        return None
    prompts = _found(columns, "system", "prompt", "question", "instruction", "input")
    if not prompts:
        return Fit(Form("", target=f"{{{named(chosen)}}}"), note)
    return Fit(Form(f"{prompt_of(prompts)}\nAnswer:", target=f" {{{named(chosen)}}}"), note)


def _choices(columns: Columns) -> Fit | None:
    listed = [n for n in columns.names if not is_answer(n) and all(is_choices(row.get(n)) for row in columns.rows)]
    listed.sort(key=lambda name: key(name) not in CHOICES)
    answer = columns.first(("label", "answer", "answer key", "gold", "correct", "correct answer"))
    prompts = _found(columns, *CONTEXTS, "article", "story") + [
        name for name in [columns.first((*PROMPTS, *TEXTS))] if name
    ]
    if not (listed and answer and prompts):
        return None
    return Fit(Form(f"{prompt_of(prompts)}\nAnswer:", target=" {choice}", choices=listed[0], label_column=answer))


def _text_to_text(columns: Columns) -> Fit | None:
    answer = columns.first(ANSWERS)
    if not answer:
        return None
    known = {*TEXTS, *TITLES, *CONTEXTS, *PROMPTS}
    inputs = [c.name for c in columns if c.name != answer and key(c.name) in known and (c.free or c.constant)]
    if not any(columns[name].free for name in inputs):
        inputs += [c.name for c in columns if c.name != answer and c.free and c.name not in inputs]
    inputs = inputs or [c.name for c in columns if c.name != answer and c.free]
    inputs = inputs or [c.name for c in columns if c.name != answer and key(c.name) in known]
    return _answered(columns, inputs, answer) if inputs else None


# What tells rows that are single messages.
_ROLES = {"user", "assistant", "system", "tool", "prompter", "human", "gpt", "bot", "model"}


def _labels(columns: Columns) -> Fit | None:
    if any(key(name) in TEXTS for name in columns.names if name not in columns):
        return None  # what is classified is no text
    role = columns.find("role")
    if role and set(columns[role].values) <= _ROLES and not columns.first(LABELS):
        raise UserError(
            "each row is one message of a conversation; put the messages of each into one row, as "
            '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
        )
    labels = label_columns(columns)
    if not labels:
        alone = columns.find("label") or columns.find("labels")
        return labelled(columns, alone, None) if alone and columns[alone].constant else None
    fit = labelled(columns, labels[0], None)
    if fit is None or len(labels) == 1:
        return fit
    rivals = tuple((f"the classes of {name!r}", {"label": (name,)}) for name in labels)
    return replace(fit, rivals=rivals)


def _text(columns: Columns) -> Fit | None:
    texts = [c.name for c in columns if c.values and not c.identifies and not c.numbers]
    others = [name for name in columns.names if name not in columns and any(row.get(name) for row in columns.rows)]
    if any(
        is_class(n) or is_answer(n) or (key(n) in ("answers", "cats", *CHATS, *PROMPTS) and key(n) not in ABOUT)
        for n in others
    ):
        return None  # lists and objects of what is to be learned, which no other format knows
    known = columns.first(TEXTS)
    if others and not known:
        return None
    if known or (len(texts) == 1 and (columns[texts[0]].free or len(columns.names) == 1)):
        return Fit(Form("", target=f"{{{named(known or texts[0])}}}"))
    free = [name for name in texts if columns[name].free]
    if len(free) != 2:
        return None
    ways = [(free[0], free[1]), (free[1], free[0])]
    rivals = tuple((f"{b!r} after {a!r}", {"text": a, "target": f" {{{named(b)}}}"}) for a, b in ways)
    return Fit(Form(prompt_of(free[:1]), target=f" {{{named(free[1])}}}"), rivals=rivals)


def _found(columns: Columns, *known: str) -> list[str]:
    return [name for name in map(columns.find, known) if name]


def _answered(columns: Columns, prompts: Sequence[str], answer: str | None) -> Fit | None:
    """What an answer column teaches: text; or classes, where the answers are few, short, and recur."""
    if not prompts or not answer or answer in prompts:
        return None
    template, target = f"{prompt_of(prompts)}\n{caption(answer)}:", f" {{{named(answer)}}}"
    fit = Fit(Form(template, target=target))
    column = columns[answer]
    if column.short and column.words <= 3:
        found = classes_of(column.cells)
        names = tuple((name, "") for name in sorted(found.names, key=order))
        if len(names) > 1:
            note = f"the answers are few and short, so they are classes; to learn them as text: --target '{target}'"
            notes = (note, *class_notes(column, found))
            fit = Fit(Form(template, names, label_column=answer), notes)
    return _disputed(columns, fit, answer)


def _disputed(columns: Columns, fit: Fit, answer: str) -> Fit:
    """The fit of an answer beside other columns that may be classes: a label is a rival, any other is offered."""
    used: Collection[str] = (*fit.form.columns, answer)
    classes = [name for name in map(columns.find, LABELS) if name and name not in used and columns[name].short]
    rival = next((name for name in classes if key(name) in ("label", "labels")), None)
    if rival:
        ways = (
            (f"the text of {answer!r}", {"target": f" {{{answer}}}"}),
            (f"the classes of {rival!r}", {"label": (rival,)}),
        )
        fit = replace(fit, rivals=ways)
    return replace(fit, offers=tuple(name for name in classes if name != rival))


FORMATS: dict[str, Format] = {
    "messages": Format(
        "`messages`: `role` and `content`, which may be in parts or null",
        "the assistant's turns, by the tokenizer's chat template",
        _chat("messages"),
    ),
    "sharegpt": Format(
        "`conversations`, `chat`, `dialogue`, ...: `from` and `value`, or texts in turn",
        "the assistant's (`gpt`) turns, as above",
        _chat(*CHATS, "data"),
    ),
    "history": Format(
        "`instruction`, `input`, `output`, and `history`: pairs of asked and answered",
        "the answers as a chat's turns, as above",
        _chat("history"),
    ),
    "conversational": Format(
        "`prompt`, a list of messages, and `completion`, one too or a text",
        "the completion's turns, as above",
        _chat("completion", "response", "answer", "output"),
    ),
    "preference-chat": Format(
        "`chosen` and `rejected`, both lists of messages",
        "the turns of `chosen`, as above",
        _chat("chosen", notes=("of each pair `chosen` is learned; what was rejected is not read",)),
    ),
    "squad": replace(_task("squad", when=_is_squad), columns="SQuAD's own JSON, or `context`, `question`, `answers`"),
    "drop": replace(_task("drop", when=_is_drop), columns="DROP's own JSON"),
    "multirc": _task("multirc", "passage", when=lambda row: isinstance(row.get("passage"), dict)),
    "arc": replace(_task("arc-easy", "answer key", when=_is_arc), columns="ARC's `question`, `choices`, `answerKey`"),
    "copa": _task("copa", "premise", "choice1", "choice2"),
    "winogrande": _task("winogrande", "sentence", "option1", "option2"),
    "wsc": _task("wsc", "text", "target", when=lambda row: isinstance(row.get("target"), dict)),
    "wic": _task("wic", "word", "sentence1", "sentence2"),
    "mrpc": _task("mrpc", "quality", "1 string", "2 string"),
    "qqp": _task("qqp", "question1", "question2", "is duplicate"),
    "qnli": _task("qnli", "question", "sentence", "label", when=_values("label", "entailment", "not_entailment")),
    "boolq-answer": _task("boolq", "passage", "question", "answer", when=_values("answer", *_TRUTH)),
    "boolq": _task("boolq", "passage", "question", "label", when=_values("label", *_TRUTH)),
    "choices": Format(
        "a list of texts `choices`, and the right one's text, letter or index", "the right one", _choices
    ),
    "preference": Format("`prompt`, `chosen`, `rejected`", "`chosen`", _preference),
    "alpaca": Format("`instruction`, `output`; `input`, `system`", "`output`; classes, if few and short", _alpaca),
    "dolly": Format("`instruction`, `response`; `context`, `category`", "`response`", _dolly),
    "question-answer": Format("`question`, `answer`; `context`", "`answer`; classes, if few and short", _question),
    "completion": Format("`prompt`, `completion`, both text", "`completion`", _completion),
    "text-to-text": Format(
        "an answer (`output`, `summary`, `target`, ...) and texts",
        "the answer; classes, if few and short",
        _text_to_text,
    ),
    "labels": Format(
        "a class (`label`, `category`, ..., or few short values that recur) and texts", "the label words", _labels
    ),
    "text": Format("one column of text, or a `.txt` of paragraphs", "all of it, in windows", _text),
}
