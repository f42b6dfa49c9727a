"""Examples in, batches of token rows out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from prge.errors import UserError
from prge.manifest import TOKENIZER_FILE, Manifest, answer_position, cut_left, file_sha256, template_columns

Record = dict[str, str]


@dataclass(frozen=True)
class Example:
    """One encoded example.

    Attributes:
        tokens: the row.
        label: index of the right class, or -1 (label words).
        targets: how many tokens at the row's end are targets (language modelling).
    """

    tokens: tuple[int, ...]
    label: int = -1
    targets: int = 0


def read_records(path: Path, columns: Sequence[str] = ("text", "label")) -> list[tuple[int, Record]]:
    """Rows of a JSONL, CSV or TSV file with their line numbers.

    CSV has a header. A TSV whose first line holds none of ``columns`` has none, and gets them.

    Raises:
        UserError: missing, empty, of an unknown kind, or malformed (with the line's number).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start}); save it as UTF-8") from e
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        records = _jsonl(path, text)
    elif suffix == ".csv":
        records = _table(path, text, ",", columns)
    elif suffix in (".tsv", ".txt"):
        records = _table(path, text, "\t", columns)
    else:
        raise UserError(f"{path}: unknown kind of data file; use .jsonl, .csv or .tsv")
    if not records:
        raise UserError(f"{path} holds no examples")
    return records


def _jsonl(path: Path, text: str) -> list[tuple[int, Record]]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not a JSON object ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: a JSON object was expected, as {{"text": ..., "label": ...}}')
        records.append((number, {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}))
    return records


def _table(path: Path, text: str, delimiter: str, columns: Sequence[str]) -> list[tuple[int, Record]]:
    # Tabs separate; quotes are ordinary characters of a TSV's text.
    quoting: Any = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    records = []
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                names = [name.strip() for name in row]
                if delimiter == "," or set(names) & set(columns):
                    header = names
                    continue
                header = list(columns)
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} columns where {len(header)} were expected "
                    f"({', '.join(header)})"
                )
            records.append((reader.line_num, dict(zip(header, row, strict=True))))
    except csv.Error as e:
        raise UserError(f"{path}, line {reader.line_num}: {e}") from e
    return records


class Encoder:
    """Turns records into examples by a program's template, labels and tokenizer."""

    def __init__(self, manifest: Manifest, tokenizer: Path, *, truncate: bool = False):
        """``tokenizer`` is a ``tokenizer.json``.

        Args:
            truncate: cut long texts from the left instead of refusing them.

        Raises:
            UserError: missing, unreadable, or another tokenizer than the program's.
        """
        self.manifest, self.truncate = manifest, truncate
        for template in (manifest.template, manifest.target):
            template_columns(template)
        if not tokenizer.is_file():
            raise UserError(f"{tokenizer} does not exist; it is written beside the program by `prge export`")
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
        """Encode one record; its label may be missing. May be longer than the program takes."""
        m = self.manifest
        text = self._fill(m.template, record, where)
        if m.objective == "label-words":
            label = -1
            name = record.get(m.label_column)
            if name is not None:
                names = [known.name for known in m.labels]
                if name not in names:
                    raise UserError(f"{where}: unknown label {name!r}; the program knows {', '.join(names)}")
                label = names.index(name)
            tokens = tuple(self.tokenizer.encode(text).ids)
            if not tokens:
                raise UserError(f"{where}: empty text")
            answer_position(cut_left(tokens, m.max_tokens, m.answer_at), m.answer_at, m.mask_token, where)
            return Example(tokens, label)
        prompt = self.tokenizer.encode(text).ids
        target = self.tokenizer.encode(self._fill(m.target, record, where), add_special_tokens=False).ids
        if len(target) > m.max_targets:
            raise UserError(
                f"{where}: {len(target)} target tokens; the program takes {m.max_targets}: "
                "shorten it, or export with a larger --max-targets"
            )
        if not prompt:  # the first target token has nothing to be predicted from
            prompt, target = target[:1], target[1:]
        if not target:
            raise UserError(f"{where}: no target tokens; the target template is {m.target!r}")
        return Example(tuple(prompt + target), targets=len(target))

    def records(self, path: Path) -> list[tuple[int, Record]]:
        """`read_records` with the columns that the program's templates name."""
        m = self.manifest
        columns = template_columns(m.template) + template_columns(m.target)
        return read_records(path, columns + [m.label_column] * (m.objective == "label-words"))

    def examples(self, path: Path, limit: int | None = None) -> list[Example]:
        """Read and encode a file, in its order; with ``limit`` the first so many.

        Raises:
            UserError: as `read_records`; unknown columns or labels; labels missing; texts
                longer than the program's bound (how many).
        """
        encoded, too_long = [], 0
        m, bound = self.manifest, self.manifest.max_tokens
        for number, record in self.records(path)[:limit]:
            where = f"{path}, line {number}"
            if m.objective == "label-words" and m.label_column not in record:
                raise UserError(f"{where}: no column {m.label_column!r}; it has {', '.join(record)}")
            example = self.example(record, where)
            too_long += len(example.tokens) > bound
            encoded.append(self.fit(example))
        if too_long and not self.truncate:
            raise UserError(
                f"{path}: {too_long} of {len(encoded)} texts are longer than the program's {bound} tokens; "
                "use --truncate to cut them from the left, or export with a larger --max-tokens"
            )
        return encoded

    def fit(self, example: Example) -> Example:
        """Cut from the left to the program's bound, keeping the targets."""
        bound = self.manifest.max_tokens
        tokens = cut_left(example.tokens, bound, self.manifest.answer_at)
        return Example(tokens, example.label, min(example.targets, len(tokens) - 1))

    def _fill(self, template: str, record: Record, where: str) -> str:
        if self.manifest.mask_token is not None:
            record = record | {"mask": str(self.tokenizer.id_to_token(self.manifest.mask_token))}
        try:
            return template.format_map(record)
        except KeyError as e:
            raise UserError(f"{where}: no column {e} for the template {template!r}; it has {', '.join(record)}") from e


def check_classes(examples: Sequence[Example], manifest: Manifest, path: Path) -> None:
    """Refuse to train on a file in which only one class occurs."""
    if manifest.objective == "label-words":
        seen = {e.label for e in examples}
        if len(seen) < 2:
            name = manifest.labels[seen.pop()].name
            raise UserError(f"{path}: every example has the label {name!r}; training needs at least two classes")


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, dev): a share of the distinct examples for dev; equal ones stay on one side."""
    distinct = list(dict.fromkeys(e.tokens for e in examples))
    random.Random(seed).shuffle(distinct)
    dev = set(distinct[: max(1, round(len(distinct) * fraction))])
    return [e for e in examples if e.tokens not in dev], [e for e in examples if e.tokens in dev]


def without(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples whose text does not occur among the others."""
    known = {e.tokens for e in others}
    return [e for e in examples if e.tokens not in known]


def batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches of examples of like length, a pure function of the arguments.

    Every epoch is shuffled, then sorted by length within windows of about 8 batches, so that a
    batch wastes little on padding and batches come in random order of length. Each batch
    has the classes in the data's own proportion: a batch's chance surplus of one class
    would be the estimate's largest noise.
    """
    classes: dict[int, list[Example]] = {}
    for e in examples:
        classes.setdefault(e.label, []).append(e)
    windows = max(1, len(examples) // (8 * size))
    for epoch in itertools.count():
        rng = random.Random(f"{seed}/{epoch}")
        ranked: list[tuple[float, Example]] = []
        for members in classes.values():
            n = len(members)
            order = enumerate(rng.sample(members, n))
            by_length = sorted(order, key=lambda item: (item[0] * windows // n, len(item[1].tokens)))
            ranked += [((i + 0.5) / n, e) for i, (_, e) in enumerate(by_length)]
        merged = [e for _, e in sorted(ranked, key=lambda item: item[0])]
        while len(merged) % size:  # the last batch is filled up from the epoch's start
            merged.append(merged[len(merged) % len(examples)])
        groups = [merged[i : i + size] for i in range(0, len(merged), size)]
        rng.shuffle(groups)
        yield from groups


def collate(examples: Sequence[Example], manifest: Manifest) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(tokens i64[n, T], the objective's targets), right-padded to the longest or the least T."""
    longest = max(len(e.tokens) for e in examples)
    length = max(longest, manifest.min_tokens)
    tokens = torch.full((len(examples), length), manifest.pad_token, dtype=torch.int64)
    for row, e in zip(tokens, examples, strict=True):
        row[: len(e.tokens)] = torch.tensor(e.tokens)
    if manifest.objective == "label-words":
        at = [answer_position(e.tokens, manifest.answer_at, manifest.mask_token, "the text") for e in examples]
        position = torch.tensor(at).unsqueeze(1)
        return tokens, (position, torch.tensor([max(e.label, 0) for e in examples]))
    position = torch.zeros(len(examples), manifest.max_targets, dtype=torch.int64)
    target, weight = torch.zeros_like(position), torch.zeros(position.shape)
    for i, e in enumerate(examples):
        n, end = e.targets, len(e.tokens)
        position[i, :n] = torch.arange(end - n - 1, end - 1)
        target[i, :n] = torch.tensor(e.tokens[end - n :])
        weight[i, :n] = 1.0 / n
    return tokens, (position, target, weight)
