"""What of a form only the model's tokenizer can say: label words, the chat template, how long the examples are."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prge.errors import UserError
from prge.examples.form import Form, Numbered, fill

# Bounds of what is measured: a row, an answer's targets, and plain text's windows and their targets.
_ROW, _ANSWER, _WINDOW, _WINDOW_TARGETS = 512, 64, 128, 32


def label_words(names: Sequence[str], tokenizer: Any) -> list[str]:
    """A word of one token for every class, no two alike: its name, the name's beginning, or else a letter.

    Args:
        tokenizer: transformers'.

    Raises:
        UserError: more classes than letters.
    """

    def ids(word: str) -> list[int]:
        found: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
        return found

    def begun(name: str) -> str:
        pieces = ids(" " + name)
        word: str = tokenizer.decode(pieces[:1]) if pieces else ""
        return word if any(c.isalnum() for c in word) else ""

    taken: set[int] = set()
    words = []
    for name in (name.strip().replace("_", " ") for name in names):
        for word in (f" {name}", f" {name.lower()}", name, begun(name), " " + begun(name)):
            token = ids(word)
            if len(token) == 1 and token[0] not in taken and word.strip():
                taken.add(token[0])
                words.append(word)
                break
    if len(words) == len(names):
        return words
    letters = [f" {letter}" for letter in string.ascii_uppercase if len(ids(f" {letter}")) == 1]
    if len(names) > len(letters):
        raise UserError(f"{len(names)} classes are too many to find words for; give --label NAME=WORD for each")
    return letters[: len(names)]


def fitted(form: Form, tokenizer: Any, records: Sequence[Numbered]) -> Form:
    """The form with label words where there were none, and bounds that hold the records where none were given.

    Without records the bounds stay as they are.

    Args:
        tokenizer: transformers'.

    Raises:
        UserError: an example too long to choose its bound unasked; as `label_words`.
    """
    if any(not word for _, word in form.labels):
        names = [name for name, _ in form.labels]
        form = replace(form, labels=tuple(zip(names, label_words(names, tokenizer), strict=True)))
    if not records:
        return form

    rows = [{"mask": tokenizer.mask_token or "", **record} for _, record in records]
    if form.choices:
        rows = [{**row, "choice": choice} for row in rows for choice in row[form.choices]]

    def longest(template: str) -> int:
        texts = [fill(template, row, "the data") for row in rows]
        return max(len(ids) for ids in tokenizer(texts)["input_ids"]) if template else 1

    targets = longest(form.target)
    # Candidates are compared as wholes; any other target may be cut into windows.
    most = targets if form.choices else _ANSWER if form.template else _WINDOW_TARGETS
    max_targets = form.max_targets or max(1, min(targets, most))
    needed = longest(form.template) + max_targets * bool(form.target) if form.template else min(_WINDOW, targets)
    if not form.max_tokens and needed > _ROW:
        raise UserError(
            f"the longest example has {needed} tokens, more than {_ROW}: give --max-tokens, as many as memory allows, "
            "and let `prge train --truncate` cut what is longer"
        )
    max_tokens = form.max_tokens or max(16, -(-needed // 8) * 8)
    return replace(form, max_tokens=max_tokens, max_targets=max_targets)
