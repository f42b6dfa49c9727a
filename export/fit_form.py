"""What only the model's tokenizer can tell of a form: the label words, and how long the examples are."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import Form, Numbered
from prge.examples.read import place
from prge.export.prompts import row_maker
from prge.models.checkpoints import Outline

# The largest bounds that are chosen unasked, in tokens: of a row and of an answer's targets; and of a window of plain
# text and of its targets.
_ROW, _ANSWER, _WINDOW, _WINDOW_TARGETS = 2048, 64, 128, 32


def label_words(names: Sequence[str], tokenizer: Tokenizer) -> list[str] | None:
    """A word of one token for every class, no two alike.

    It is the class's name, else the beginning of its name. Where another class has that, it is one of the name's other
    words, the one that the fewest names hold first; else a letter. A class whose beginning is taken changes no other's
    word. None where there are not enough letters.
    """

    def ids(word: str) -> list[int]:
        return list(tokenizer.encode(word, add_special_tokens=False).ids)

    def begun(name: str) -> str:
        word: str = tokenizer.decode(ids(" " + name)[:1])
        return word if any(c.isalnum() for c in word) else ""

    def spellings(name: str) -> list[str]:
        return [f" {name}", f" {name.lower()}", name, begun(name), " " + begun(name)]

    taken: set[int] = set()

    def free(words: Iterable[str]) -> str:
        for word in words:
            token = ids(word)
            if len(token) == 1 and token[0] not in taken and word.strip():
                taken.add(token[0])
                return word
        return ""

    names = [name.strip().replace("_", " ") for name in names]
    parts = [list(dict.fromkeys(re.findall(r"\w+", name.lower()))) for name in names]
    shared = Counter(part for each in parts for part in each)
    words = [free(spellings(name)) for name in names]
    others = [sorted(each, key=lambda part: shared[part]) for each in parts]
    words = [
        word or free(spelled for part in each for spelled in spellings(part))
        for word, each in zip(words, others, strict=True)
    ]
    words = [word or free(f" {letter}" for letter in string.ascii_uppercase) for word in words]
    return words if all(words) else None


def templated(form: Form, checkpoint: Outline, model: str) -> Form:
    """The form with what the model gives its template: the chat template, or the place of the mask.

    Args:
        model: its name, for messages.

    Raises:
        UserError: the form is of chats, and the tokenizer has no chat template.
    """
    if form.chat:
        if not checkpoint.chat_template:
            raise UserError(
                f"{model}: its tokenizer has no chat template; take an instruction-tuned model for messages"
            )
        form = replace(form, chat=Chat(checkpoint.chat_template, checkpoint.special_tokens))
    if checkpoint.answer_at == "mask" and form.open and "{mask}" not in form.template:
        form = replace(form, template=form.template + " {mask}")
    return form


def fitted(
    form: Form,
    checkpoint: Outline,
    records: Sequence[Numbered],
    source: Path | str = "the data",
    truncate: bool | None = None,
) -> Form:
    """The form with what it left open: its label words, and bounds that hold the records.

    Without records the bounds stay as they are. Where there are more classes than words, their names are learned as
    text.

    Args:
        source: where the records come from, for messages.
        truncate: whether what is longer than any bound that is chosen unasked will be cut; None where training, which
            does it, comes later.

    Raises:
        UserError: an example is so long that its bound must be given; as `row_maker`; or a record lacks a column of the
            form's templates.
    """
    if any(not word for _, word in form.labels):
        names = [name for name, _ in form.labels]
        words = label_words(names, checkpoint.driver_tokenizer)
        if words:
            form = replace(form, labels=tuple(zip(names, words, strict=True)))
        else:  # the names are learned as text
            form = replace(form, labels=(), target=f" {{{form.label_column}}}")
    if not records or (form.max_tokens and (form.max_targets or form.labels)):
        return form
    maker = row_maker(checkpoint, form)
    lengths = [
        (len(prompt), len(target), number)
        for number, record in records
        for prompt, target in maker.pairs(record, place(source, number))
    ]
    targets = max(target for _, target, _ in lengths)
    # Choices are compared as wholes. Any other target may be cut into windows.
    most = targets if form.choices else _ANSWER if form.template else _WINDOW_TARGETS
    max_targets = form.max_targets or max(1, min(targets, most))
    if form.template:
        needed, number = max((prompt + min(target, max_targets), number) for prompt, target, number in lengths)
    else:
        needed, number = min(_WINDOW, max(prompt + target for prompt, target, _ in lengths)), 0
    if not form.max_tokens and needed > _ROW and not truncate:
        cut = f"`--max-tokens {_ROW}` and, when it trains, --truncate" if truncate is None else "--truncate"
        raise UserError(
            f"{place(source, number)}: {needed:,} tokens, more than the {_ROW} that are taken unasked: "
            f"give --max-tokens {-(-needed // 8) * 8}, if memory allows, or {cut} to cut what is longer from the left"
        )
    max_tokens = form.max_tokens or max(16, -(-min(needed, _ROW) // 8) * 8)
    return replace(form, max_tokens=max_tokens, max_targets=max_targets)
