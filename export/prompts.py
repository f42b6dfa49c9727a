"""Prompts at export: what a template may hold, and rows of example texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prge.errors import UserError
from prge.manifest import answer_position, cut_left
from prge.models.checkpoints import Checkpoint
from prge.models.subspace import Row

if TYPE_CHECKING:
    from prge.export.config import ExportConfig

# How many texts the fisher subspace is taken from.
_TEXTS = 64


def check_template(checkpoint: Checkpoint, template: str) -> None:
    """Raise a UserError unless the template has ``{mask}`` once where the model answers there, and else not at all."""
    masked = checkpoint.answer_at == "mask"
    if masked and checkpoint.tokenizer.mask_token_id is None:
        raise UserError(f"{checkpoint.source}: its tokenizer has no mask token")
    if masked != template.count("{mask}"):
        wanted = (
            "predicts at its mask token: write {mask} once" if masked else "has no masked-LM head: leave {mask} out"
        )
        raise UserError(f"template {template!r}: {checkpoint.source} {wanted}")


def text_rows(checkpoint: Checkpoint, config: ExportConfig, records: Sequence[Mapping[str, str]]) -> list[Row]:
    """The prompts (and targets) of some records, spread over all of them, cut as ``config`` bounds them."""
    rows, at = [], checkpoint.answer_at
    mask_token = checkpoint.tokenizer.mask_token_id
    for record in records[:: -(-len(records) // _TEXTS)]:
        try:
            filled = {**record, "mask": checkpoint.tokenizer.mask_token}
            prompt, target = config.template.format_map(filled), config.target.format_map(record)
        except KeyError as e:
            raise UserError(f"the texts have no column {e}; they have {', '.join(record)}") from e
        special = not config.chat_template  # which writes them itself
        tokens = checkpoint.tokenizer(prompt, add_special_tokens=special)["input_ids"] or [checkpoint.pad_token]
        ends = checkpoint.tokenizer(target, add_special_tokens=False)["input_ids"][: config.max_targets]
        row = cut_left(tokens + ends, config.max_tokens, at)
        if at != "last":
            rows.append(Row(row, (answer_position(row, at, mask_token, "the texts"),)))
            continue
        last = len(row) - bool(ends)  # the last target is predicted from the token before it
        rows.append(Row(row, tuple(range(max(0, last - max(1, len(ends))), last))))
    return rows
