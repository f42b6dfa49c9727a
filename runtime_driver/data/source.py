"""Where a run's examples come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prge.errors import UserError
from prge.examples.form import Form, Numbered
from prge.examples.keep import Kept, read_kept
from prge.examples.read import has_part, place
from prge.examples.reader import Reader
from prge.examples.rows import Example
from prge.manifest import TOKENIZER_FILE
from prge.options import Option
from prge.runtime_driver.data.encoder import Encoder, check_classes, without
from prge.runtime_driver.data.packed import is_packed, unpack


@dataclass(frozen=True)
class Source:
    """Where a run's examples come from, and which of them it takes. The run's folder keeps these settings."""

    train: Annotated[
        str | None,
        Option(
            "Examples: .jsonl, .csv, .tsv, .txt ..., or a folder; default: the hub's, for a named task.",
            ("--data",),
        ),
    ] = None
    dev: Annotated[str | None, Option("Examples to evaluate on.")] = None
    dev_fraction: Annotated[
        float, Option("Without --dev: this share of the data; 0 for no evaluation.", least=0.0, most=0.9)
    ] = 0.2
    limit: Annotated[int | None, Option("Use only the first N examples of --data.", ("--examples",), least=1)] = None
    seed: Annotated[int, Option("Of the split, the batches and the directions.", least=0, most=2**31 - 1)] = 0
    truncate: Annotated[bool, Option("Cut long texts from the left instead of refusing them.")] = False
    tokenizer: Annotated[str | None, Option(f"The {TOKENIZER_FILE}; default: beside the program.")] = None

    def records(self, form: Form) -> tuple[list[Numbered], list[Numbered], list[Kept]]:
        """The records of a form to train on and to evaluate on, and each file's, with what was left out of it.

        Raises:
            UserError: a file cannot be read, or nothing is left of it.
        """
        data, dev = (Path(path) if path else None for path in (self.train, self.dev))
        found = read_kept(form, data)
        records, held = found.records[: self.limit], list[Numbered]()
        if not self.divided:
            aside = read_kept(form, dev or data, "dev")
            return records, aside.records, [found, aside]
        for number, record in records:
            form.text(record, place(str(data), number))  # a record that lacks a column is named by its line
        if self.dev_fraction:
            records, held = form.divide(records, self.dev_fraction, self.seed)
        return records, held, [found]

    @property
    def divided(self) -> bool:
        """Whether the dev set is a share of the data."""
        return self.train is not None and self.dev is None and not has_part(Path(self.train), "dev")

    def read(self, reader: Reader) -> tuple[list[Example], list[Example], int]:
        """Read and encode them.

        Returns:
            training examples, dev examples, and how many of the former were left out because they are in dev.
            `Reader.skipped` says how many of both held nothing to learn.

        Raises:
            UserError: a file cannot be read or encoded, no example is left to train on, or all have one class.
        """
        data, dev = (Path(path) if path else None for path in (self.train, self.dev))
        if data and is_packed(data):
            if not isinstance(reader, Encoder):
                raise UserError(f"{data} is packed for a program; give that program in place of the model")
            if dev or self.limit:
                raise UserError(f"{data} is packed and holds its own dev set; leave --dev and --examples out")
            return unpack(data, reader.manifest)
        records, held, files = self.records(reader.form)
        for kept in files:
            reader.note(kept)
        examples = reader.encode_all(records, data)
        # The share of a small file may be a single text, with nothing to learn.
        dev_examples = reader.encode_all(held, dev or data, required=not self.divided)
        left = without(examples, dev_examples)
        name = self.train or reader.form.task
        if not left:
            raise UserError(f"{name}: no example is left to train on beside those of the dev set")
        check_classes(left, reader.form, name)
        return left, dev_examples, len(examples) - len(left)
