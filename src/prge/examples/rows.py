"""The one maker of token rows. The driver trains on them, and the exporter takes the adapter's directions from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.form import Form, fill
from prge.examples.read import Record
from prge.examples.shared import shared
from prge.manifest import AnswerAt

# Stands for a bound that a form does not have.
_UNBOUNDED = 2**31


@dataclass(frozen=True)
class Example:
    """One encoded example.

    Attributes:
        tokens: the row.
        label: index of the right class or choice; -1 where there is none, or none is known.
        targets: how many tokens at the row's end are to be learned (language modelling only).
        candidates: one row for each choice, where there are choices. The example itself is then the right one.
    """

    tokens: tuple[int, ...]
    label: int = -1
    targets: int = 0
    candidates: tuple[Example, ...] = ()

    @property
    def rows(self) -> tuple[Example, ...]:
        """The rows that evaluation runs."""
        return self.candidates or (self,)

    @property
    def target_positions(self) -> range:
        """Where the targets are predicted: each at the token before it."""
        end = len(self.tokens) - 1
        return range(end - self.targets, end)


@dataclass(eq=False)
class RowMaker:
    """Makes the token rows of records.

    Attributes:
        form: what an example is. Without bounds, a row is as long as its text.
        tokenizer: it must neither pad nor truncate.
        answer_at: where a label word is predicted: at the last token, the mask or the first token.
        mask_token: what ``{mask}`` in the template stands for; None where the model has no mask.
        stop_tokens: as in `Manifest`.
        vocabulary: rows of the model's embedding; None where it is not known. A tokenizer may know more tokens.
    """

    form: Form
    tokenizer: Tokenizer
    answer_at: AnswerAt = "last"
    mask_token: int | None = None
    stop_tokens: Sequence[int] = ()
    vocabulary: int | None = None

    @property
    def _max_tokens(self) -> int:
        return self.form.max_tokens or _UNBOUNDED

    def encode(self, record: Record, where: str, *, labelled: bool = True) -> list[Example]:
        """The examples of a record: one, or one per window of a long target; none if there is nothing to learn.

        There is nothing to learn from a text without tokens, or from a single token with nothing before it. Rows may
        be longer than the form's bound: `fit` cuts them.

        Args:
            where: the record's place, for messages.
            labelled: whether the right class or choice must be known. If not, classes are left out, and a record
                whose right choice is unknown gives a row for each choice.

        Raises:
            UserError: a column is missing or holds no text, the label is missing or unknown, a choice has more target
                tokens than the form takes, or the row does not hold its mask once.
        """
        form = self.form
        if form.labels:
            label = self._label(record, where) if labelled else -1
            row = tuple(self.prompt(record, where))
            if not row:
                return []
            answer_position(cut_left(row, self._max_tokens, self.answer_at), self.answer_at, self.mask_token, where)
            return [Example(row, label)]
        found = [self._windows(prompt, target) for prompt, target in self.pairs(record, where)]
        if not form.choices:
            return found[0]
        for choice, windows in zip(record[form.choices], found, strict=True):
            if len(windows) > 1:
                raise UserError(
                    f"{where}: the choice {choice!r} has more target tokens than the {form.max_targets} that the "
                    "program takes: shorten it, or export with a larger --max-targets"
                )
        if not all(found):
            return []
        rows = tuple(row for windows in found for row in windows)
        if form.label_column in record:
            right = int(record[form.label_column])
            return [replace(rows[right], label=right, candidates=rows)]
        if labelled:
            raise UserError(f"{where}: no label, so the right choice is unknown")
        return list(rows)

    def example(self, record: Record, where: str = "the text") -> Example:
        """A record's row for classification. It may lack a label, and be longer than the form's bound.

        Raises:
            UserError: as `encode`, or the text has no tokens.
        """
        found = self.encode(record, where, labelled=self.form.label_column in record)
        if not found:
            raise UserError(f"{where}: empty text")
        return found[0]

    def fit(self, example: Example) -> Example:
        """Cut an example from the left to the form's bound. Its targets stay, as far as they fit."""
        tokens = cut_left(example.tokens, self._max_tokens, self.answer_at)
        candidates = tuple(self.fit(row) for row in example.candidates)
        return Example(tokens, example.label, min(example.targets, len(tokens) - 1), candidates)

    def prompt(self, record: Record, where: str) -> list[int]:
        """The tokens of a record's prompt, as the model is given it when it is to answer."""
        if self.mask_token is not None:
            record = record | {"mask": str(self.tokenizer.id_to_token(self.mask_token))}
        return self._encode(fill(self.form.template, record, where), where)

    def _encode(self, text: str, where: str) -> list[int]:
        # A chat template writes the special tokens itself.
        tokens = list(self.tokenizer.encode(text, add_special_tokens=self.form.chat is None).ids)
        check_known(tokens, self.vocabulary, self.tokenizer, where)
        return tokens

    def pairs(self, record: Record, where: str) -> list[tuple[list[int], list[int]]]:
        """(prompt, target) in tokens, whole: of the record, or of each choice. With label words the target is empty."""
        if not self.form.choices:
            return [self._pair(record, where)]
        return [self._pair({**record, "choice": choice}, where) for choice in record[self.form.choices]]

    def _pair(self, record: Record, where: str) -> tuple[list[int], list[int]]:
        """The tokens of prompt and target in one text: what a tokenizer makes of a word depends on what is around it.

        A token of letters from both is the target's. Behind the target is the token that ends a text, so that the
        model learns to stop; but not behind one of several choices, nor where the target ends in such a token itself.
        """
        prompt = self.prompt(record, where)
        answer = fill(self.form.target, record, where)
        if not answer or self.form.labels:
            return prompt, []
        whole = self._encode(fill(self.form.template, record, where) + answer, where)
        begin = max(shared(prompt, whole), 1)  # nothing predicts the first token
        target = whole[begin:]
        if target and not self.form.choices and self.stop_tokens and target[-1] not in self.stop_tokens:
            target.append(self.stop_tokens[0])
        return whole[:begin], target

    def _windows(self, prompt: list[int], target: list[int]) -> list[Example]:
        """The target in pieces that the form takes, each after as much of the text before it as fits."""
        whole, most = prompt + target, min(self.form.max_targets or _UNBOUNDED, self._max_tokens - 1)
        windows = []
        for start in range(len(prompt), len(whole), most):
            end = min(start + most, len(whole))
            first = 0 if start == len(prompt) else max(0, end - self._max_tokens)
            windows.append(Example(tuple(whole[first:end]), targets=end - start))
        return windows

    def _label(self, record: Record, where: str) -> int:
        """Index of the record's class."""
        column, names = self.form.label_column, [name for name, _ in self.form.labels]
        if column not in record:
            raise UserError(f"{where}: no column {column!r}; it has {', '.join(record)}")
        if record[column] not in names:
            raise UserError(f"{where}: unknown label {record[column]!r}; the program knows {', '.join(names)}")
        return names.index(record[column])


def check_known(tokens: Sequence[int], vocabulary: int | None, tokenizer: Tokenizer, where: str) -> None:
    """Refuse tokens beyond the rows of the model's embedding, which a tokenizer may know all the same.

    Args:
        tokens: of one text.
        vocabulary: the embedding's rows; None for no bound.
        where: names the text in messages.

    Raises:
        UserError: naming the token.
    """
    most = max(tokens, default=0)
    if vocabulary is not None and most >= vocabulary:
        raise UserError(
            f"{where}: the tokenizer makes {tokenizer.id_to_token(most)!r} the token {most}, and the model has "
            f"embeddings of {vocabulary} tokens alone: leave that text out, or resize the model's embeddings first"
        )


def answer_position(tokens: Sequence[int], answer_at: str, mask_token: int | None, where: str) -> int:
    """Index of the token whose hidden state predicts the label.

    Args:
        tokens: a row.
        answer_at, mask_token: as in `Manifest`.
        where: names the row in messages.

    Raises:
        UserError: the model answers at its mask token, and the row does not hold it exactly once.
    """
    if answer_at != "mask":
        return 0 if answer_at == "first" else len(tokens) - 1
    if list(tokens).count(mask_token or 0) != 1:
        raise UserError(
            f"{where}: the row holds the mask token {list(tokens).count(mask_token or 0)} times, not once; "
            "the text holds one itself, or it is too long and its mask was cut off"
        )
    return list(tokens).index(mask_token or 0)


def cut_left(tokens: Sequence[int], bound: int, answer_at: str) -> tuple[int, ...]:
    """The last ``bound`` tokens of a row; an encoder's rows also keep their first token, which opens every text."""
    if len(tokens) <= bound or answer_at == "last":
        return tuple(tokens[-bound:])
    return (tokens[0], *tokens[len(tokens) - bound + 1 :])
