"""A program's examples: files in, token rows out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.form import Form, template_columns
from prge.examples.reader import Reader
from prge.examples.rows import Example
from prge.files.bounded import TOKENIZER, check_size
from prge.files.digest import file_sha256
from prge.manifest import TOKENIZER_FILE, Manifest


class Encoder(Reader):
    """The reader of a program, with the tokenizer that was written beside it.

    Attributes:
        manifest: the program's.
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
        m = manifest
        rows = m.architecture.vocabulary
        super().__init__(Form.of(m), loaded, m.answer_at, m.mask_token, m.stop_tokens, rows, truncate=truncate)
        self.manifest = m


def check_classes(examples: Sequence[Example], form: Form, path: Path | str) -> None:
    """Refuse to train on a file in which only one class occurs."""
    if form.labels:
        seen = {e.label for e in examples}
        if len(seen) < 2:
            name, _ = form.labels[seen.pop()]
            raise UserError(f"{path}: every example has the label {name!r}; training needs at least two classes")


def without(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples whose text does not occur among the others."""
    known = {e.tokens for e in others}
    return [e for e in examples if e.tokens not in known]
