"""A checkpoint in; out comes a folder with ``program.pte``, ``tokenizer.json`` and, if asked for, ``generate.pte``."""

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
from prge.examples.chat import Chat
from prge.examples.chat_pieces import write_pieces
from prge.examples.read import Record
from prge.export.config import ExportConfig, check_config
from prge.export.describe import describe, label_tokens, refuse_unusable
from prge.export.from_peft import lora_factors, refuse_other_rows, save_initial
from prge.export.generate import reach, write_generator
from prge.export.let_go import let_go
from prge.export.lower import example_inputs, example_tokens
from prge.export.need import refuse_too_large
from prge.export.prompts import check_template, stop_tokens, text_rows
from prge.export.quantize import quantize, refuse_odd
from prge.export.report import ExportReport
from prge.export.write import write_program
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.digest import file_sha256
from prge.files.folders import new_folder
from prge.files.typed import parse_json
from prge.lora import check_base
from prge.manifest import FROZEN_FILE, PROGRAM_FILE, Label, Manifest
from prge.memory import peak_megabytes
from prge.models.adapter import AdaptedLinear
from prge.models.backbone import FrozenPart
from prge.models.build import (
    BuiltStep,
    LabelWordsObjective,
    LanguageModelObjective,
    add_label_head,
    build_step,
    fisher_factors,
    refuse_unfit,
)
from prge.models.checkpoints import Checkpoint
from prge.models.comparison import Original
from prge.models.families import FAMILIES
from prge.models.parts import Parts
from prge.quiet import quiet

REPORT_FILE = "export.json"


# Hears the name of a phase as it begins; and, where it is long, how much of how much is done.
Listener = Callable[[str, int, int | None], None]


class _Phases:
    """Tells the listener how far it is, measures the time and memory of each phase, and drops what it leaves."""

    def __init__(self, listener: Listener):
        self.listener, self.name, self.began = listener, "", 0.0
        self.seconds, self.megabytes = dict[str, float](), dict[str, float]()

    def enter(self, name: str) -> None:
        let_go()
        now = time.perf_counter()
        if self.name:
            self.seconds[self.name], self.megabytes[self.name] = now - self.began, peak_megabytes()
        self.name, self.began = name, now
        self.listener(name, 0, None)

    def at(self, done: int, total: int) -> None:
        self.listener(self.name, done, total)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Run without the cyclic garbage collector, which would walk the graphs' millions of small objects in vain.

    Where one is asked for, it does not walk what was there before: the libraries, a million objects more.
    """
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def export_program(
    checkpoint: Checkpoint,
    config: ExportConfig,
    folder: Path,
    listener: Listener = lambda phase, done, total: None,
    records: Sequence[Record] = (),
    request: str = "",
) -> tuple[Manifest, ExportReport]:
    """Write ``folder`` with the program, its tokenizer and a report. Where that fails, nothing is left of it.

    Settings that could not be used are refused before the slow part begins.

    Args:
        checkpoint: the model, which is consumed, and its tokenizer.
        listener: hears how far it is.
        records: examples by column, for the fisher subspace only; their labels are not needed.
        request: what `request_of` says of the folder.

    Raises:
        UserError: the folder is in use, the settings do not fit each other or the model, a label word is no single
            token, the machine has too little memory, or the disk is full.
    """
    check_config(config, records)
    check_template(checkpoint, config.template)
    labels = label_tokens(checkpoint, config.label_words) if config.label_words else ()
    context = config.context and min(config.context, reach(checkpoint.model.config))
    digest = checkpoint.digest()  # of the weights as they are; from here on the model is changed
    manifest = _described(checkpoint, config, labels, context)
    if config.lora:
        refuse_other_rows(config.lora, manifest)
    refuse_too_large(manifest, folder)
    weight_bytes = sum(p.numel() * 4 for p in checkpoint.model.parameters())
    phases = _Phases(listener)
    with new_folder(folder) as out, _without_collector():
        phases.enter("adapt")
        tokenizer = checkpoint.save_tokenizer(out)
        if config.lora:
            check_base(config.lora.path, config.lora.base, config.lora.base_sha256, checkpoint.source, digest)
        built = _build(checkpoint, config, labels, records, max(config.max_tokens, context))
        phases.enter("quantize")
        with quiet():
            quantize(built.step, built.base_linears, config.quantization, phases.at)
        frozen = _frozen(built.adapters)
        adapter = manifest.adapter
        manifest = dataclasses.replace(
            manifest, model_sha256=digest, tokenizer_sha256=file_sha256(tokenizer),
            adapter=dataclasses.replace(adapter, sha256=adapter.digest(frozen.numpy().tobytes())),
        )  # fmt: skip
        if config.lora:
            save_initial(out, manifest, built.adapters, config.lora)
        lengths, backbone = (config.min_tokens, config.max_tokens), built.step.backbone
        phases.enter("frozen part")
        constants: dict[str, Any] = {"manifest": dataclasses.replace(manifest, kind="frozen").to_json()}
        below = range(backbone.first)
        rows = functools.partial(example_tokens, manifest.frozen_rows)
        lower = write_program(out / FROZEN_FILE, FrozenPart(backbone), rows, lengths, below, config.backend, constants)
        manifest = dataclasses.replace(manifest, frozen_sha256=lower.sha256)
        above = range(backbone.first, len(backbone.layers))
        constants = {"manifest": manifest.to_json(), "frozen": frozen}
        inputs = functools.partial(example_inputs, built.step)
        written = write_program(
            out / PROGRAM_FILE, built.step, inputs, lengths, above, config.backend, constants, phases.enter
        )
        generator = None
        if context:
            phases.enter("generate")
            generator = write_generator(out, checkpoint, built, manifest, frozen, context, config.backend)
        phases.enter("done")
        if checkpoint.chat_template and (config.chat_template or context):
            write_pieces(out, Chat(checkpoint.chat_template, checkpoint.special_tokens))
        report = ExportReport(
            **vars(written), weight_bytes=weight_bytes, seconds=phases.seconds, peak_megabytes=phases.megabytes,
            frozen=lower, generator=generator, request=request,
        )  # fmt: skip
        (out / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
    return manifest, report


def request_of(folder: Path) -> str | None:
    """What an exported program was made of, as `export_program` was told; None where nothing tells."""
    try:
        return str(parse_json(read_bounded(folder / REPORT_FILE, SETTINGS))["request"])
    except (UserError, ValueError, LookupError, TypeError):
        return None


def _described(checkpoint: Checkpoint, config: ExportConfig, labels: tuple[Label, ...], context: int) -> Manifest:
    """The manifest of the program to be made, without digests.

    Raises:
        UserError: there is no such program, or no driver could use it.
    """
    at_mask = checkpoint.answer_at == "mask"
    try:
        parts = Parts(checkpoint.model)
        refuse_unfit(parts, config.adapter, config.step, _objective(config, labels), max(config.max_tokens, context))
        described = dataclasses.replace(
            describe(parts, config, labels),
            model=checkpoint.source,
            pad_token=checkpoint.pad_token,
            mask_token=checkpoint.tokenizer.mask_token_id if at_mask else None,
            stop_tokens=() if labels else stop_tokens(checkpoint),
        )
    except ValueError as e:
        raise UserError(f"{checkpoint.source}: {e}") from e
    refuse_unusable(described)
    linears = [linear for _, name, linear in parts.linears() if not (parts.grouped and parts.makes_keys(name))]
    refuse_odd(linears, config.quantization, both_ways=not config.step.estimates)
    return described


def _objective(config: ExportConfig, labels: tuple[Label, ...]) -> LabelWordsObjective | LanguageModelObjective:
    return (
        LabelWordsObjective([label.token for label in labels]) if labels else LanguageModelObjective(config.max_targets)
    )


def _build(
    checkpoint: Checkpoint,
    config: ExportConfig,
    labels: tuple[Label, ...],
    records: Sequence[Record],
    longest: int,
) -> BuiltStep:
    objective, kind = _objective(config, labels), checkpoint.model.config.model_type
    if checkpoint.answer_at == "first" and labels:
        add_label_head(checkpoint.model, [checkpoint.tokenizer(label.word)["input_ids"] for label in labels])
    try:
        original = None if kind in FAMILIES else Original(checkpoint.model, longest)
        factors = {}
        if config.adapter.subspace == "fisher":
            rows = text_rows(checkpoint, config, records)
            factors = fisher_factors(checkpoint.model, config.adapter, objective, rows, config.step.gradient)
        elif config.lora:
            factors = lora_factors(checkpoint.model, config.lora)
        shared = config.quantization == "f32"
        built = build_step(
            checkpoint.model, config.adapter, config.step, objective, longest,
            share_table=shared, factors=factors, pad_token=checkpoint.pad_token,
        )  # fmt: skip
        if original:
            original.check(built, objective.tokens if isinstance(objective, LabelWordsObjective) else None)
        if original and not config.step.estimates:  # finds an operator without a way back now, and not after minutes
            with torch.no_grad():
                built.step(*example_inputs(built.step, config.min_tokens))
    except ValueError as e:
        raise UserError(f"{checkpoint.source}: {e}") from e
    except (RuntimeError, TypeError, AttributeError, LookupError) as e:
        if kind in FAMILIES:
            raise
        raise UserError(
            f"{checkpoint.source}: no family is declared for models of type {kind!r}, and this one cannot be taken "
            f"apart ({e})"
        ) from e
    built.step.eval()
    return built


def _frozen(adapters: list[AdaptedLinear]) -> torch.Tensor:
    """The frozen factors in the order that `AdaptedModule` gives, flat; in float16 where that loses nothing."""
    factors = torch.cat([f.reshape(-1) for layer in adapters for f in (layer.down, layer.up) if f is not None])
    half = factors.half()
    return half if torch.equal(half.float(), factors) else factors
