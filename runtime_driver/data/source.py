"""Where a run's examples come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prge.errors import UserError
from prge.examples.form import split
from prge.examples.read import has_part
from prge.runtime_driver.data.encoder import Encoder, Example, check_classes, without
from prge.runtime_driver.data.packed import is_packed, unpack


@dataclass(frozen=True)
class Source:
    """Where a run's examples come from.

    Attributes:
        train: a file or folder; None for a task's own place. A packed file holds the dev set too.
        dev: one more; None for the dev part of ``train``, or else for a share of it.
        dev_fraction: that share.
        limit: only the first so many records of ``train``.
        seed: of what is split off.
        truncate: cut long texts from the left.
        tokenizer: default: the file beside the program.
    """

    train: str | None
    dev: str | None = None
    dev_fraction: float = 0.2
    limit: int | None = None
    seed: int = 0
    truncate: bool = False
    tokenizer: str | None = None

    def read(self, encoder: Encoder) -> tuple[list[Example], list[Example], int]:
        """(training examples, dev examples, how many of the former were left out because they are in dev).

        Raises:
            UserError: unreadable, or no example is left.
        """
        data, dev = (Path(path) if path else None for path in (self.train, self.dev))
        if data and is_packed(data):
            if dev or self.limit:
                raise UserError(f"{data} is packed and holds its own dev set; leave --dev and --examples out")
            return unpack(data, encoder.manifest)
        records = encoder.records(data)[: self.limit]
        if dev is None and (data is None or has_part(data, "dev")):
            held, dev = encoder.records(data, "dev"), data
        elif dev is not None:
            held = encoder.records(dev, "dev")
        else:
            fraction = self.dev_fraction
            records, held = split(records, encoder.form.text, fraction, self.seed) if fraction else (records, [])
        examples, dev_examples = encoder.encode_all(records, data), encoder.encode_all(held, dev or data)
        kept = without(examples, dev_examples)
        name = self.train or encoder.manifest.task
        if not kept:
            raise UserError(f"{name}: no example is left to train on beside those of the dev set")
        check_classes(kept, encoder.manifest, name)
        return kept, dev_examples, len(examples) - len(kept)
