"""What the manifest of a program will say, from the settings and the model's sizes, before anything slow is done."""

from __future__ import annotations

from prge.errors import UserError
from prge.examples.rows import check_known
from prge.export.config import ExportConfig, default_eps, default_lr
from prge.manifest import Adapter, Label, Manifest
from prge.models.adapter import layout, trained_head
from prge.models.build import architecture
from prge.models.checkpoints import Outline
from prge.models.optimizer import BETAS, SLOTS
from prge.models.parts import Parts, answer_at

# Fields that stand in the manifest as they were asked for.
_FROM_CONFIG = (
    "quantization", "min_tokens", "max_tokens", "template", "label_column", "choices", "chat_template",
    "special_tokens", "task",
)  # fmt: skip
_FROM_STEP = ("queries", "batch", "outer", "inner", "noise", "gradient", "optimizer")

# Rows of one execution of the frozen part. At 8 it is a tenth slower than at 16, and takes half the memory for results
# (docs/bench.md).
_FROZEN_ROWS = 8

# PEFT's names of what a model is for, by where it answers; it has none for masked-LM heads.
_TASK_TYPES = {"last": "CAUSAL_LM", "mask": None, "first": "FEATURE_EXTRACTION"}


def describe(parts: Parts, config: ExportConfig, labels: tuple[Label, ...]) -> Manifest:
    """The manifest of the step that ``config`` asks for; the model's weights are not read.

    Model and tokenizer are left open: their names, digests and tokens, and the digest of the adapter.

    Raises:
        ValueError: the adapter does not fit the model (`layout`).
    """
    step, adapter = config.step, config.adapter
    modules, at = layout(parts, adapter), answer_at(parts.config, parts.model.base_model is parts.model)
    words, before = [label.token for label in labels] or None, sum(module.size for module in modules)
    trains = Adapter(
        adapter.rank, adapter.alpha, adapter.subspace, modules, _TASK_TYPES[at], parts.family.transposed,
        head=trained_head(parts, adapter, words, step.estimates, before),
    )  # fmt: skip
    return Manifest(
        **{name: getattr(config, name) for name in _FROM_CONFIG},
        **{name: getattr(step, name) for name in _FROM_STEP},
        model="",
        model_sha256="",
        state_size=trains.parameters * (1 + SLOTS[step.optimizer]),
        betas=BETAS,
        objective="label-words" if labels else "language-modelling",
        labels=labels,
        target="" if labels else config.target,
        max_targets=0 if labels else config.max_targets,
        answer_at=at,
        tokenizer_sha256="",
        pad_token=0,
        first_layer=min(module.layer for module in modules),
        frozen_rows=min(_FROZEN_ROWS, step.batch),
        eps=default_eps(adapter, step, config.quantization) if config.eps is None else config.eps,
        lr=default_lr(adapter, step) if config.lr is None else config.lr,
        adapter=trains,
        architecture=architecture(parts),
    )


def refuse_unusable(manifest: Manifest) -> None:
    """Raise a UserError that names the option, where a driver would refuse a program with this manifest."""
    fault = manifest.fault()
    if fault:
        field, rule = fault
        raise UserError(f"--{field.replace('_', '-')} {rule}")


def label_tokens(checkpoint: Outline, pairs: tuple[tuple[str, str], ...]) -> tuple[Label, ...]:
    """Look the label words up.

    Args:
        pairs: (label name, label word) of each class.

    Raises:
        UserError: there are fewer than two labels, a word is not one token, or two labels have one name or token.
    """
    if len(pairs) < 2:
        raise UserError("label words need at least two labels, as --label '0= terrible' --label '1= great'")
    labels: list[Label] = []
    for name, word in pairs:
        if checkpoint.answer_at == "first":  # a plain encoder's head has a row for each label, of any words
            labels.append(Label(name, word, len(labels)))
            continue
        ids = checkpoint.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = checkpoint.tokenizer.convert_ids_to_tokens(ids)
            singles = [
                w
                for w in (" " + word.strip(), word.strip(), " " + word.strip().lower(), " " + word.strip().title())
                if len(checkpoint.tokenizer(w, add_special_tokens=False)["input_ids"]) == 1
            ]
            hint = f"try {singles[0]!r}" if singles else "choose a more common word, with a leading space"
            raise UserError(f"label word {word!r} of label {name!r} is {len(ids)} tokens {pieces}, not one; {hint}")
        check_known(ids, checkpoint.config.vocab_size, checkpoint.driver_tokenizer, f"label word {word!r}")
        labels.append(Label(name, word, ids[0]))
    for field in ("name", "token"):
        values = [getattr(label, field) for label in labels]
        if len(set(values)) < len(values):
            raise UserError(f"two labels share a {field}: {', '.join(f'{x.name}={x.word!r}' for x in labels)}")
    return tuple(labels)
