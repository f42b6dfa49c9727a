"""A program's examples: records in, token rows out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.form import Form, Numbered, template_columns
from prge.examples.keep import keep
from prge.examples.read import Part, place
from prge.examples.rows import Example, RowMaker
from prge.files.bounded import TOKENIZER, check_size
from prge.files.digest import file_sha256
from prge.manifest import TOKENIZER_FILE, Manifest


class Encoder(RowMaker):
    """The row maker of a program, with the tokenizer that was written beside it.

    Attributes:
        manifest: the program's.
        truncate: whether texts longer than the program's bound are cut from the left. If not, they are refused.
        skipped: how many records held nothing to learn and were left out, in all that were read so far.
        told: what a user should know of the records that were left out or read otherwise, in sentences.
    """

    def __init__(self, manifest: Manifest, tokenizer: Path, *, truncate: bool = False):
        """Check and load the tokenizer.

        Args:
            tokenizer: its ``tokenizer.json``.

        Raises:
            UserError: missing, unreadable, or another tokenizer than the program's.
        """
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
            loaded = Tokenizer.from_file(str(tokenizer))
        except Exception as e:  # the library raises bare Exception
            raise UserError(f"{tokenizer} cannot be read: {e}") from e
        super().__init__(Form.of(manifest), loaded, manifest.answer_at, manifest.mask_token)
        self.manifest, self.truncate, self.skipped = manifest, truncate, 0
        self.told: list[str] = []

    def records(self, path: Path | None, part: Part = "train") -> list[Numbered]:
        """`Form.records` of the program's form, without those that lack something (`keep`), which add to `skipped`.

        Raises:
            UserError: as both.
        """
        found = self.form.records(path, part)
        kept = keep(self.form, found, path or self.manifest.task)
        self.skipped += len(found) - len(kept.records)
        self.told += kept.told
        return kept.records

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
        where, bound = path or self.manifest.task, self.manifest.max_tokens
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
        too_long = sum(max(len(row.tokens) for row in e.rows) > bound for e in encoded)
        if too_long and not self.truncate:
            raise UserError(
                f"{where}: {too_long} of {len(encoded)} texts are longer than the program's {bound} tokens; "
                "use --truncate to cut them from the left, or export with a larger --max-tokens"
            )
        return [self.fit(e) for e in encoded]


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
