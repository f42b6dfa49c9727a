"""A checkpoint in, a folder with ``program.pte``, ``tokenizer.json`` and, if asked for, ``generate.pte`` out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from prge.errors import UserError
from prge.examples.read import Record
from prge.export.config import ExportConfig, check_config, default_eps, default_lr
from prge.export.from_peft import lora_factors, save_initial
from prge.export.generate import reach, write_generator
from prge.export.lower import example_inputs
from prge.export.prompts import check_template, text_rows
from prge.export.quantize import quantize
from prge.export.report import ExportReport
from prge.export.write import write_program
from prge.files.folders import new_folder
from prge.lora import check_base
from prge.manifest import PROGRAM_FILE, Adapter, Label, Manifest, file_sha256
from prge.models.adapter import AdaptedLinear
from prge.models.build import (
    BuiltStep,
    LabelWordsObjective,
    LanguageModelObjective,
    add_label_head,
    build_step,
    fisher_factors,
)
from prge.models.checkpoints import Checkpoint
from prge.models.optimizer import BETAS
from prge.quiet import quiet

REPORT_FILE = "export.json"

# What the manifest says as it was asked for.
_FROM_CONFIG = (
    "quantization", "min_tokens", "max_tokens", "template", "label_column", "choices", "chat_template",
    "special_tokens", "task",
)  # fmt: skip
_FROM_STEP = ("queries", "batch", "outer", "inner", "noise", "perturb", "optimizer")

# PEFT's names of what a model is for, by where it answers; it has none for masked-LM heads.
_TASK_TYPES = {"last": "CAUSAL_LM", "mask": None, "first": "FEATURE_EXTRACTION"}


def label_tokens(checkpoint: Checkpoint, pairs: tuple[tuple[str, str], ...]) -> tuple[Label, ...]:
    """Look the label words up.

    Raises:
        UserError: fewer than two, a word of several tokens, or one token for two labels.
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
        labels.append(Label(name, word, ids[0]))
    for field in ("name", "token"):
        values = [getattr(label, field) for label in labels]
        if len(set(values)) < len(values):
            raise UserError(f"two labels share a {field}: {', '.join(f'{x.name}={x.word!r}' for x in labels)}")
    return tuple(labels)


class _Phases:
    """Tells who listens which phase begins, and measures each."""

    def __init__(self, listener: Callable[[str], None]):
        self.listener, self.seconds, self.name, self.began = listener, dict[str, float](), "", 0.0

    def enter(self, name: str) -> None:
        now = time.perf_counter()
        if self.name:
            self.seconds[self.name] = now - self.began
        self.name, self.began = name, now
        self.listener(name)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Graphs are millions of small objects that stay; the cyclic collector would walk them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def export_program(
    checkpoint: Checkpoint,
    config: ExportConfig,
    folder: Path,
    listener: Callable[[str], None] = lambda phase: None,
    records: Sequence[Record] = (),
) -> tuple[Manifest, ExportReport]:
    """Write ``folder`` with the program, its tokenizer and a report; all of it or nothing.

    ``checkpoint.model`` is consumed. ``listener`` hears the name of each phase as it begins.
    ``records`` are examples by column for the fisher subspace; their labels are not needed.

    Raises:
        UserError: the folder exists and holds something, the settings do not fit each other
            or the model, a label word is no single token, or the disk is full.
    """
    check_config(config, records)
    check_template(checkpoint, config.template)
    labels = label_tokens(checkpoint, config.label_words) if config.label_words else ()
    weight_bytes = sum(p.numel() * 4 for p in checkpoint.model.parameters())
    phases = _Phases(listener)
    with new_folder(folder) as out, _without_collector():
        phases.enter("adapt")
        digest = checkpoint.digest()
        if config.lora:
            check_base(config.lora.path, config.lora.base, config.lora.base_sha256, checkpoint.source, digest)
        context = config.context and min(config.context, reach(checkpoint.model.config))
        built = _build(checkpoint, config, labels, records, max(config.max_tokens, context))
        phases.enter("quantize")
        with quiet():
            quantize(built.step, built.base_linears, config.quantization)
        tokenizer = checkpoint.save_tokenizer(out)
        frozen = _frozen(built.adapters)
        manifest = _manifest(checkpoint, config, built, frozen, labels, digest, file_sha256(tokenizer))
        if config.lora:
            save_initial(out, manifest, built.adapters, config.lora)
        constants: dict[str, Any] = {"manifest": manifest.to_json(), "frozen": frozen}
        inputs, lengths = functools.partial(example_inputs, built.step), (config.min_tokens, config.max_tokens)
        depth = len(built.step.backbone.layers)
        written = write_program(
            out / PROGRAM_FILE, built.step, inputs, lengths, depth, config.backend, constants, phases.enter
        )
        generator = None
        if context:
            phases.enter("generate")
            generator = write_generator(out, checkpoint, built, manifest, frozen, context, config.backend)
        phases.enter("done")
        report = ExportReport(**vars(written), weight_bytes=weight_bytes, seconds=phases.seconds, generator=generator)
        (out / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    return manifest, report


def _build(
    checkpoint: Checkpoint,
    config: ExportConfig,
    labels: tuple[Label, ...],
    records: Sequence[Record],
    longest: int,
) -> BuiltStep:
    objective = (
        LabelWordsObjective([label.token for label in labels]) if labels else LanguageModelObjective(config.max_targets)
    )
    if checkpoint.answer_at == "first" and labels:
        add_label_head(checkpoint.model, [checkpoint.tokenizer(label.word)["input_ids"] for label in labels])
    try:
        factors = {}
        if config.adapter.subspace == "fisher":
            rows = text_rows(checkpoint, config, records)
            factors = fisher_factors(checkpoint.model, config.adapter, objective, rows)
        elif config.lora:
            factors = lora_factors(checkpoint.model, config.lora)
        shared = config.quantization == "f32"
        built = build_step(
            checkpoint.model, config.adapter, config.step, objective, longest,
            share_table=shared, factors=factors, pad_token=checkpoint.pad_token,
        )  # fmt: skip
    except ValueError as e:
        raise UserError(f"{checkpoint.source}: {e}") from e
    built.step.eval()
    return built


def _frozen(adapters: list[AdaptedLinear]) -> torch.Tensor:
    factors = torch.cat([f.reshape(-1) for layer in adapters for f in (layer.down, layer.up) if f is not None])
    half = factors.half()
    return half if torch.equal(half.float(), factors) else factors  # mostly half: see AdaptedLinear


def _manifest(
    checkpoint: Checkpoint,
    config: ExportConfig,
    built: BuiltStep,
    frozen: torch.Tensor,
    labels: tuple[Label, ...],
    digest: str,
    tokenizer_sha256: str,
) -> Manifest:
    step, adapter = config.step, config.adapter
    modules = tuple(layer.module for layer in built.adapters)
    task_type, transposed = _TASK_TYPES[checkpoint.answer_at], built.parts.family.transposed
    trains = Adapter(adapter.rank, adapter.alpha, adapter.subspace, modules, task_type, transposed)
    return Manifest(
        **{name: getattr(config, name) for name in _FROM_CONFIG},
        **{name: getattr(step, name) for name in _FROM_STEP},
        model=checkpoint.source,
        model_sha256=digest,
        state_size=built.step.state_size,
        betas=BETAS,
        objective="label-words" if labels else "language-modelling",
        labels=labels,
        target="" if labels else config.target,
        max_targets=0 if labels else config.max_targets,
        answer_at=checkpoint.answer_at,
        mask_token=checkpoint.tokenizer.mask_token_id if checkpoint.answer_at == "mask" else None,
        tokenizer_sha256=tokenizer_sha256,
        pad_token=checkpoint.pad_token,
        eps=default_eps(adapter, step, config.quantization) if config.eps is None else config.eps,
        lr=default_lr(adapter, step) if config.lr is None else config.lr,
        adapter=dataclasses.replace(trains, sha256=trains.digest(frozen.numpy().tobytes())),
        architecture=built.architecture,
    )
