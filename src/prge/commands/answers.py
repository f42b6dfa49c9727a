"""Answers that a program's generator gives to its records' prompts, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prge.examples.form import Numbered, fill
from prge.examples.metrics import answer_scores
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.generate import GenerateProgram


def score_answers(
    generator: GenerateProgram, encoder: Encoder, records: Sequence[Numbered], state: Tensor
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
        golds.append(record.get("answers") or [fill(m.target, record, where)])
    return answer_scores(predictions, golds)
