"""What an export is told of the examples: they are read, encoded and judged before any model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prge.commands.hooks import Hooks
from prge.examples.detect import described
from prge.examples.form import Form, Numbered
from prge.examples.read import Record, place
from prge.examples.reader import Reader
from prge.quiet import quiet
from prge.runtime_driver.data.source import Source

if TYPE_CHECKING:
    from prge.export.config import ExportConfig

# Rows of more tokens are worth a word: the memory of a step grows with them.
_LONG = 512


@dataclass(frozen=True)
class Fitted:
    """What to export.

    Attributes:
        config: the settings, whole.
        records: the examples for the adapter's directions; empty where these are the weights' own.
        inferred: what the form left open, by name; empty where that was nothing.
        request: hex digest of all that the program is made of; equal ones make the same program.
    """

    config: ExportConfig
    records: list[Record]
    inferred: dict[str, str]
    request: str


def fit(
    model: str, form: Form, configure: Callable[[Form], ExportConfig], source: Source | None, hooks: Hooks, *,
    trains: bool, labelled: bool = True, allow_pickle: bool = False,
) -> Fitted:  # fmt: skip
    """Read the examples, and fit the form and the settings to them, by the model's tokenizer alone.

    Args:
        form: what an example is. What it leaves open is taken from the tokenizer and the examples, and told.
        configure: makes the settings of a whole form.
        source: the examples; None for none.
        trains: whether they are trained on next. Then they are judged as training judges them.
        labelled: whether the labels that they have must be the form's.

    Raises:
        UserError: whatever is wrong with the examples, the form or the settings and shows without the model.
    """
    with quiet():
        from prge.export.config import check_config
        from prge.export.describe import label_tokens
        from prge.export.fit_form import fitted, templated
        from prge.export.prompts import check_template, row_maker, text_rows
        from prge.models.checkpoints import load_outline

    hooks.show("read", 0, None, str(source.train if source and source.train else form.task or model))
    with quiet():
        outline = load_outline(model, allow_pickle)
    asked = form
    form = templated(form, outline, model)
    check_template(outline, form.template)
    records, held, files = source.records(form) if source else ([], [], [])
    name = source.train or form.task if source else ""
    for text in dict.fromkeys(text for kept in files for text in kept.told):
        hooks.tell(f"Of {name}, {text}")
    form = fitted(form, outline, [*records, *held], name or "the data", source.truncate if source and trains else None)
    if asked.labels and not form.labels:
        hooks.tell(f"{len(asked.labels)} classes are more than there are words for: their names are learned as text")
    if asked.max_tokens is None and (form.max_tokens or 0) > _LONG:
        hooks.tell(
            f"The longest example has about {form.max_tokens} tokens, and a step's memory grows with it; to cut what "
            f"is longer than {_LONG}: --max-tokens {_LONG}, and then --truncate"
        )
    config = configure(form)
    directed = [record for _, record in records] if config.adapter.subspace == "fisher" else []
    check_config(config, directed)
    if config.label_words:
        label_tokens(outline, config.label_words)
    inferred = described(form) if form != asked else {}
    if source and trains:
        reader = row_maker(outline, form, truncate=source.truncate)
        source.read(reader)
    elif source:
        reader = row_maker(outline, form)
        _judge(reader, records, name or "", config.max_tokens, labelled, hooks)
    rows = text_rows(outline, config, directed) if directed else []
    if source and not form.labels and inferred:
        inferred |= _learned(reader, records, name or "")
        if not (reader.stop_tokens or form.choices):
            hooks.tell(f"{model} has no token that ends a text: nothing teaches it where an answer ends.")
    if inferred:
        lines = [f"  {title}: {value}" for title, value in inferred.items()]
        hooks.tell("\n".join([f"Inferred from {name}", *lines]))
    request = hashlib.sha256(repr((outline.source, _files(model), config, rows)).encode()).hexdigest()
    return Fitted(config, directed, inferred, request)


def _judge(reader: Reader, records: list[Numbered], name: str, bound: int, labelled: bool, hooks: Hooks) -> None:
    """Encode all records: a wrong one is refused. Of those that are too long it is said that training cuts them."""
    long = 0
    for number, record in records:
        found = reader.encode(record, place(name, number), labelled=labelled and reader.form.label_column in record)
        long += any(len(row.tokens) > bound for e in found for row in e.rows)
    if long:
        hooks.tell(f"{long} of {len(records)} texts are longer than {bound} tokens: `prge train --truncate` cuts them.")


def _learned(reader: Reader, records: list[Numbered], name: str) -> dict[str, str]:
    """What is learned of the first example that holds anything."""
    for number, record in records:
        for example in reader.encode(record, place(name, number), labelled=False)[:1]:
            begin = len(example.tokens) - example.targets

            def text(tokens: Any) -> str:
                return str(reader.tokenizer.decode(list(tokens), skip_special_tokens=False))

            before, answer = text(example.tokens[:begin])[-40:], text(example.tokens[begin:])
            return {"learns": f"{answer!r} behind {'...' + before!r}"}
    return {}


def _files(model: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a local checkpoint's files, which change when its weights do."""
    path = Path(model).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
