"""What `prge eval` and `prge predict` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from prge.commands.first_run import try_first
from prge.commands.hooks import Hooks
from prge.commands.open import DataPath, Device, ProgramPath, Runtime, StatePath, Tokenizer, Truncate, load, read_state
from prge.commands.train import skipped_of
from prge.errors import UserError
from prge.examples.form import Numbered, template_columns
from prge.examples.metrics import answer_scores
from prge.examples.read import place
from prge.examples.rows import Example
from prge.options import AnyPath, Option
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.run.folder import summary


def evaluate_file(
    program: ProgramPath,
    data: DataPath = None,
    state: StatePath = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    generate: Annotated[
        bool, Option("Also write the answers (generate.pte) and score exact match and F1.", ("--generate",))
    ] = False,
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Loss, and how many answers are right, on labelled examples."""
    loaded = load(
        program, tokenizer=tokenizer, truncate=truncate, runtime=runtime, device=device, first_run=True, hooks=hooks
    )
    encoder = loaded.encoder()
    where = Path(data) if data else None
    m, records, trained = loaded.manifest, encoder.records(where, "dev"), read_state(loaded, state)
    if generate and (m.objective == "label-words" or m.choices):
        raise UserError(f"{loaded.path} chooses among given answers; leave --generate out")
    examples = encoder.encode_all(records, where)
    evaluation = evaluate(
        loaded, trained, examples, lambda done: hooks.show("evaluating", done, len(examples), "")
    )  # fmt: skip
    found: dict[str, Any] = {"examples": len(examples), **summary(evaluation), **skipped_of(encoder)}
    if generate:
        try_first(loaded.path.parent, "generate", hooks)
        found |= score_answers(GenerateProgram(loaded.path.parent), encoder, records, trained, hooks)
    return found


def predict(
    program: ProgramPath,
    texts: Annotated[tuple[str, ...], Option("Texts to classify; or give --data.", argument=True)] = (),
    data: Annotated[AnyPath | None, Option("Examples with named columns; labels are not needed.")] = None,
    state: StatePath = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Classify texts."""
    loaded = load(
        program, tokenizer=tokenizer, truncate=truncate, runtime=runtime, device=device, first_run=True, hooks=hooks
    )
    m, encoder = loaded.manifest, loaded.encoder()
    if m.objective != "label-words":
        raise UserError(f"{loaded.path} has no label words to predict; `prge eval` gives its loss on a text")
    columns = template_columns(m.template)
    if texts and len(columns) != 1:
        raise UserError(f"the template {m.template!r} takes {len(columns)} columns; give --data with them")
    records = [(f"text {i}", {columns[0]: text}) for i, text in enumerate(texts, 1)]
    if data is not None:
        for number, record in encoder.form.records(Path(data)):
            record.pop(m.label_column, None)
            records.append((place(str(data), number), record))
    if not records:
        raise UserError("nothing to predict; give texts or --data")
    examples: list[Example] = []
    for where, record in records:
        example = encoder.example(record, where)
        if len(example.tokens) > m.max_tokens and not truncate:
            raise UserError(
                f"{where}: {len(example.tokens)} tokens; the program takes {m.max_tokens}: "
                "use --truncate to cut from the left"
            )
        examples.append(encoder.fit(example))
    scores = evaluate(loaded, read_state(loaded, state), examples).scores
    assert scores is not None
    predictions = [
        {"label": m.labels[int(p.argmax())].name, "probability": float(p.max()), "text": encoder.form.shown(record)}
        for p, (_, record) in zip(scores.softmax(1), records, strict=True)
    ]
    return {"predictions": predictions}


def score_answers(
    generator: GenerateProgram, encoder: Encoder, records: Sequence[Numbered], state: Tensor, hooks: Hooks
) -> dict[str, float]:
    """``exact_match`` and ``f1`` of the likeliest answers, each the first line of at most the program's target tokens.

    Args:
        encoder: of the step that ``state`` belongs to.
        records: each with its ``answers``, or with what the target's template names.
    """
    m = encoder.manifest
    predictions, golds = [], []
    for number, record in records:
        where = f"record {number}"
        tokens = list(generator.generate(encoder.prompt(record, where), state, m.max_targets))
        text = encoder.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        predictions.append(text.partition("\n")[0].strip())
        golds.append(encoder.form.golds(record, where))
        hooks.show("writing answers", len(golds), len(records), "")
    return answer_scores(predictions, golds)
