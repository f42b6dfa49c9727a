"""Example texts at export: the rows that the driver will make of them, and where their answers are predicted."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import Form
from prge.examples.read import Record
from prge.examples.reader import Reader
from prge.examples.rows import Example, RowMaker, answer_position
from prge.export.config import ExportConfig
from prge.models.checkpoints import Outline
from prge.models.likeness import family_of
from prge.models.subspace import Row

# The fisher subspace is taken from at most so many texts, so many of their rows, and so many positions of all rows:
# the decomposition's time and memory grow with these.
_TEXTS, _POSITIONS = 64, 256


def stop_tokens(checkpoint: Outline) -> tuple[int, ...]:
    """The tokens that end a text: the tokenizer's, the configuration's, and what ends a turn in chats.

    The first is the one to write behind an answer.
    """
    tokenizer, config = checkpoint.driver_tokenizer, checkpoint.config
    if not family_of(config).causal:
        return ()
    chat = Chat(checkpoint.chat_template, checkpoint.special_tokens)
    turn = tokenizer.encode(chat.turn_end, add_special_tokens=False).ids
    # A turn may end in a word, which other texts hold too.
    special = [token for token in turn if len(turn) == 1 and token in tokenizer.get_added_tokens_decoder()]
    found = [checkpoint.tokenizer.eos_token_id, *checkpoint.ends, *special]
    return tuple(dict.fromkeys(int(token) for token in found if token in range(config.vocab_size)))


def check_template(checkpoint: Outline, template: str) -> None:
    """Refuse a template whose ``{mask}`` does not suit the model.

    Raises:
        UserError: the model answers at its mask, and the template does not have ``{mask}`` once; or the model does
            not, and the template has it.
    """
    masked = checkpoint.answer_at == "mask"
    if masked and checkpoint.tokenizer.mask_token_id is None:
        raise UserError(f"{checkpoint.source}: its tokenizer has no mask token")
    if masked != template.count("{mask}"):
        wanted = (
            "predicts at its mask token: write {mask} once" if masked else "has no masked-LM head: leave {mask} out"
        )
        raise UserError(f"template {template!r}: {checkpoint.source} {wanted}")


def row_maker(checkpoint: Outline, form: Form, *, truncate: bool = False) -> Reader:
    """What makes the token rows of a form for a checkpoint, as the driver will make them.

    Args:
        truncate: as in `Reader`.

    Raises:
        UserError: as `check_template`; or the tokenizer has no ``tokenizer.json`` form.
    """
    check_template(checkpoint, form.template)
    mask = checkpoint.tokenizer.mask_token_id if checkpoint.answer_at == "mask" else None
    ends = () if form.labels else stop_tokens(checkpoint)
    rows = checkpoint.config.vocab_size
    return Reader(form, checkpoint.driver_tokenizer, checkpoint.answer_at, mask, ends, rows, truncate=truncate)


def text_rows(checkpoint: Outline, config: ExportConfig, records: Sequence[Record]) -> list[Row]:
    """The rows that the fisher subspace is taken from: those that the driver will train on. Labels are not needed.

    They are of at most 64 records, spread over all of them. If these give more than 64 rows (windows of long targets,
    or choices of which the right one is unknown), 64 of them are drawn. If the rows have more than 256 positions, each
    gives at most its share of so many, spread over all of its own.

    Raises:
        UserError: as `RowMaker.encode` and `row_maker`; or the records hold nothing to learn.
    """
    form = Form(
        config.template, config.label_words, config.label_column, config.target, config.choices,
        Chat(config.chat_template) if config.chat_template else None, config.task, config.max_tokens,
        config.max_targets,
    )  # fmt: skip
    maker = row_maker(checkpoint, form)
    examples: list[Example] = []
    for i in range(0, len(records), -(-len(records) // _TEXTS)):
        made = maker.encode(records[i], f"the texts, record {i + 1}", labelled=False)
        examples += [maker.fit(e) for e in made]
    if not examples:
        raise UserError("the texts hold nothing to learn: each is empty, or a single token with nothing before it")
    if len(examples) > _TEXTS:
        examples = random.Random(0).sample(examples, _TEXTS)
    found = [_positions(e, maker) for e in examples]
    most = _POSITIONS // len(found) if sum(map(len, found)) > _POSITIONS else _POSITIONS
    return [Row(e.tokens, _spread(positions, most)) for e, positions in zip(examples, found, strict=True)]


def _spread(positions: Sequence[int], most: int) -> tuple[int, ...]:
    """At most so many of some positions, at even distances."""
    count = min(len(positions), most)
    return tuple(positions[i * len(positions) // count] for i in range(count))


def _positions(example: Example, maker: RowMaker) -> Sequence[int]:
    """The positions of a row whose predictions the loss reads."""
    if maker.form.labels:
        return (answer_position(example.tokens, maker.answer_at, maker.mask_token, "the texts"),)
    return example.target_positions
