"""Examples in, batches of token rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.form import Form, Numbered, fill
from prge.examples.read import Part, Record, place
from prge.files.bounded import TOKENIZER, check_size
from prge.manifest import TOKENIZER_FILE, Manifest, answer_position, cut_left, file_sha256, template_columns


@dataclass(frozen=True)
class Example:
    """One encoded example.

    Attributes:
        tokens: the row.
        label: index of the right class or candidate, or -1.
        targets: how many tokens at the row's end are targets (language modelling).
        candidates: the rows of all answers to choose from, where there are some; this one is the right one's.
    """

    tokens: tuple[int, ...]
    label: int = -1
    targets: int = 0
    candidates: tuple[Example, ...] = ()

    @property
    def rows(self) -> tuple[Example, ...]:
        """What evaluation runs."""
        return self.candidates or (self,)


class Encoder:
    """Turns records into examples by a program's template, labels and tokenizer."""

    def __init__(self, manifest: Manifest, tokenizer: Path, *, truncate: bool = False):
        """``tokenizer`` is a ``tokenizer.json``.

        Args:
            truncate: cut long texts from the left instead of refusing them.

        Raises:
            UserError: missing, unreadable, or another tokenizer than the program's.
        """
        self.manifest, self.truncate, self.form = manifest, truncate, Form.of(manifest)
        for template in (manifest.template, manifest.target):
            template_columns(template)
        if not tokenizer.is_file():
            raise UserError(f"{tokenizer} does not exist; it is written beside the program by `prge export`")
        check_size(tokenizer, TOKENIZER)
        if file_sha256(tokenizer) != manifest.tokenizer_sha256:
            raise UserError(
                f"{tokenizer} is not the tokenizer that the program was exported with; "
                f"use the {TOKENIZER_FILE} that was written beside the program"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as e:  # the library raises bare Exception
            raise UserError(f"{tokenizer} cannot be read: {e}") from e

    def example(self, record: Record, where: str = "the text") -> Example:
        """Encode a record for classification; its label may be missing. May be longer than the program takes."""
        m = self.manifest
        label = -1
        name = record.get(m.label_column)
        if name is not None:
            names = [known.name for known in m.labels]
            if name not in names:
                raise UserError(f"{where}: unknown label {name!r}; the program knows {', '.join(names)}")
            label = names.index(name)
        tokens = tuple(self.prompt(record, where))
        if not tokens:
            raise UserError(f"{where}: empty text")
        answer_position(cut_left(tokens, m.max_tokens, m.answer_at), m.answer_at, m.mask_token, where)
        return Example(tokens, label)

    def encode(self, record: Record, where: str) -> list[Example]:
        """The examples of a record: one, or for long targets as many as they have windows."""
        m = self.manifest
        if m.objective == "label-words":
            if m.label_column not in record:
                raise UserError(f"{where}: no column {m.label_column!r}; it has {', '.join(record)}")
            return [self.example(record, where)]
        if not m.choices:
            return self._windows(self.prompt(record, where), self._target(record, where), where)
        rows = []
        for choice in record[m.choices]:
            chosen = {**record, "choice": choice}
            windows = self._windows(self.prompt(chosen, where), self._target(chosen, where), where)
            if len(windows) > 1:
                raise UserError(
                    f"{where}: the choice {choice!r} has more target tokens than the {m.max_targets} that the program "
                    "takes: shorten it, or export with a larger --max-targets"
                )
            rows += windows
        fill("{choice}", record, where)  # there must be a right one
        right = int(record[m.label_column])
        return [replace(rows[right], label=right, candidates=tuple(rows))]

    def records(self, path: Path | None, part: Part = "train") -> list[Numbered]:
        """`Form.records` of the program's form."""
        return self.form.records(path, part)

    def examples(self, path: Path | None, limit: int | None = None, part: Part = "train") -> list[Example]:
        """Read and encode a file, in its order; with ``limit`` the first so many records.

        Raises:
            UserError: as `records` and `encode_all`.
        """
        return self.encode_all(self.records(path, part)[:limit], path)

    def encode_all(self, records: Sequence[Numbered], path: Path | None) -> list[Example]:
        """Encode records of a file.

        Raises:
            UserError: unknown columns or labels; labels missing; texts longer than the program's bound (how many).
        """
        where = path or self.manifest.task
        encoded = [e for number, record in records for e in self.encode(record, place(where, number))]
        bound = self.manifest.max_tokens
        too_long = sum(max(len(row.tokens) for row in e.rows) > bound for e in encoded)
        if too_long and not self.truncate:
            raise UserError(
                f"{where}: {too_long} of {len(encoded)} texts are longer than the program's {bound} tokens; "
                "use --truncate to cut them from the left, or export with a larger --max-tokens"
            )
        return [self.fit(e) for e in encoded]

    def fit(self, example: Example) -> Example:
        """Cut from the left to the program's bound, keeping the targets."""
        bound = self.manifest.max_tokens
        tokens = cut_left(example.tokens, bound, self.manifest.answer_at)
        candidates = tuple(self.fit(row) for row in example.candidates)
        return Example(tokens, example.label, min(example.targets, len(tokens) - 1), candidates)

    def prompt(self, record: Record, where: str) -> list[int]:
        """A record's prompt, which the target follows."""
        if self.manifest.mask_token is not None:
            record = record | {"mask": str(self.tokenizer.id_to_token(self.manifest.mask_token))}
        text = fill(self.manifest.template, record, where)
        # A chat template writes the special tokens itself.
        return list(self.tokenizer.encode(text, add_special_tokens=not self.manifest.chat_template).ids)

    def _target(self, record: Record, where: str) -> list[int]:
        return list(self.tokenizer.encode(fill(self.manifest.target, record, where), add_special_tokens=False).ids)

    def _windows(self, prompt: list[int], target: list[int], where: str) -> list[Example]:
        """The target in pieces that the program takes, each behind as much of what precedes it as fits."""
        m = self.manifest
        if not prompt:  # the first target token has nothing to be predicted from
            prompt, target = target[:1], target[1:]
        if not target:
            raise UserError(f"{where}: no target tokens; the target template is {m.target!r}")
        whole, most = prompt + target, min(m.max_targets, m.max_tokens - 1)
        windows = []
        for start in range(len(prompt), len(whole), most):
            end = min(start + most, len(whole))
            first = 0 if start == len(prompt) else max(0, end - m.max_tokens)
            windows.append(Example(tuple(whole[first:end]), targets=end - start))
        return windows


def check_classes(examples: Sequence[Example], manifest: Manifest, path: Path | str) -> None:
    """Refuse to train on a file in which only one class occurs."""
    if manifest.objective == "label-words":
        seen = {e.label for e in examples}
        if len(seen) < 2:
            name = manifest.labels[seen.pop()].name
            raise UserError(f"{path}: every example has the label {name!r}; training needs at least two classes")


def without(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples whose text does not occur among the others."""
    known = {e.tokens for e in others}
    return [e for e in examples if e.tokens not in known]
