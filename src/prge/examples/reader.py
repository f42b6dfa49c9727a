"""Reads files of examples: records in, token rows out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.form import Form, Numbered
from prge.examples.keep import Kept, keep
from prge.examples.read import Part, place
from prge.examples.rows import Example, RowMaker
from prge.manifest import AnswerAt


class Reader(RowMaker):
    """A row maker that reads files.

    Attributes:
        truncate: whether texts longer than the form's bound are cut from the left. If not, they are refused.
        skipped: how many records held nothing to learn and were left out, in all that were read so far.
        told: what a user should know of the records that were left out or read otherwise, in sentences.
    """

    def __init__(
        self,
        form: Form,
        tokenizer: Tokenizer,
        answer_at: AnswerAt = "last",
        mask_token: int | None = None,
        stop_tokens: Sequence[int] = (),
        vocabulary: int | None = None,
        *,
        truncate: bool = False,
    ):
        super().__init__(form, tokenizer, answer_at, mask_token, stop_tokens, vocabulary)
        self.truncate, self.skipped = truncate, 0
        self.told: list[str] = []

    def records(self, path: Path | None, part: Part = "train") -> list[Numbered]:
        """`Form.records` of the reader's form, without those that lack something (`keep`).

        Raises:
            UserError: as both.
        """
        found = keep(self.form, self.form.records(path, part), path or self.form.task)
        self.note(found)
        return found.records

    def note(self, found: Kept) -> None:
        """Count what was left out of a file."""
        self.skipped += found.skipped
        self.told += found.told

    def examples(self, path: Path | None, limit: int | None = None, part: Part = "train") -> list[Example]:
        """Read and encode a file, in its order; with ``limit`` only the first so many records.

        Raises:
            UserError: as `records` and `encode_all`.
        """
        return self.encode_all(self.records(path, part)[:limit], path)

    def encode_all(self, records: Sequence[Numbered], path: Path | None, *, required: bool = True) -> list[Example]:
        """Encode the records of a file, cut to the program's bound. Those with nothing to learn add to `skipped`.

        Args:
            path: the file, for messages; None for the hub's data.
            required: whether to refuse records that all hold nothing to learn.

        Raises:
            UserError: as `encode`; texts are longer than the program's bound (how many); or no example is left.
        """
        where, bound = path or self.form.task, self.form.max_tokens
        encoded: list[Example] = []
        for number, record in records:
            found = self.encode(record, place(where, number))
            self.skipped += not found
            encoded += found
        if required and records and not encoded:
            raise UserError(
                f"{where}: none of its {len(records)} texts holds anything to learn: each is empty, or a single token "
                "with nothing before it; give longer texts"
            )
        too_long = sum(max(len(row.tokens) for row in e.rows) > bound for e in encoded) if bound else 0
        if too_long and not self.truncate:
            raise UserError(
                f"{where}: {too_long} of {len(encoded)} texts are longer than the program's {bound} tokens; "
                "use --truncate to cut them from the left, or export with a larger --max-tokens"
            )
        return [self.fit(e) for e in encoded]
