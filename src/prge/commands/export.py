"""What the commands of the server's side do: export, plan, and the demo.

Their libraries are imported when they are called, so a device without them runs all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from prge.commands.screen import progress_bar, show
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.detect import Asked, described, form_of
from prge.examples.form import Form, split
from prge.examples.read import has_part
from prge.lora import adapter_folder, read_lora
from prge.manifest import GENERATE_FILE, PROGRAM_FILE
from prge.quiet import quiet

if TYPE_CHECKING:
    from prge.export.config import ExportConfig


def usual(form: Form) -> int:
    """q and B by default: copies of a target of many tokens are long."""
    return 16 if form.labels else 4


def settings(form: Form) -> dict[str, Any]:
    """A form as `ExportConfig` has it."""
    max_tokens = form.max_tokens or 128
    chat = form.chat or Chat("")
    return {
        "template": form.template,
        "label_words": form.labels,
        "label_column": form.label_column,
        "target": form.target,
        "choices": form.choices,
        "chat_template": chat.template,
        "special_tokens": dict(chat.special_tokens),
        "task": form.task,
        "min_tokens": min(4, max_tokens),
        "max_tokens": max_tokens,
        "max_targets": form.max_targets or 32,
    }


def standard(form: Form) -> ExportConfig:
    """The defaults for a form with texts."""
    with quiet():
        from prge.export.config import ExportConfig
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    step = StepConfig(usual(form), usual(form))
    return ExportConfig(AdapterConfig(subspace="fisher"), step, **settings(form), quantization="8da8w")


def export(
    model: str,
    output: Path,
    form: Form,
    configure: Callable[[Form], ExportConfig],
    texts: Path | None,
    console: Console | None,
    limit: int | None = None,
    hold_out: tuple[float, int] | None = None,
    hub: bool = False,
    adapter: Path | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """`prge export`.

    Args:
        form: what an example is; what is left open is taken from the tokenizer and the texts, and shown.
        texts: examples for the adapter's directions and the form's bounds; None with ``hub`` for the task's.
        limit: use the first so many of them.
        hold_out: (fraction, seed) of the `split` whose dev part gives no directions.
        adapter: the PEFT adapter folder to go on from, in place of the config's own.
    """
    with quiet():
        from prge.export.fit_form import fitted
        from prge.export.from_peft import adapter_config
        from prge.export.program import export_program
        from prge.models.checkpoints import load_checkpoint

    lora = read_lora(adapter_folder(adapter)) if adapter else None
    records = form.records(texts) if (texts or hub) and not form.chat else []
    with progress_bar(console) as progress:
        bar = progress.add_task("load", total=None, note=model)
        began = time.perf_counter()
        with quiet():
            checkpoint = load_checkpoint(model, allow_pickle)
        loaded = time.perf_counter() - began
        asked = form
        if form.chat:
            if not checkpoint.chat_template:
                raise UserError(
                    f"{model}: its tokenizer has no chat template; take an instruction-tuned model for messages"
                )
            form = replace(form, chat=Chat(checkpoint.chat_template, checkpoint.special_tokens))
            records = form.records(texts) if texts else []
        records = records[:limit]
        if checkpoint.answer_at == "mask" and form.open and "{mask}" not in form.template:
            form = replace(form, template=form.template + " {mask}")
        form = fitted(form, checkpoint.tokenizer, records)
        if hold_out and records:
            records, _ = split(records, form.text, *hold_out)
        if form != asked and console:
            show(described(form), False, f"Inferred from {texts}", progress.console)
        config = configure(form)
        if lora:
            config = replace(config, adapter=adapter_config(lora), lora=lora)
        manifest, report = export_program(
            checkpoint, config, output, lambda phase: progress.update(bar, description=phase),
            [record for _, record in records] if config.adapter.subspace == "fisher" else [],
        )  # fmt: skip
    result: dict[str, Any] = {
        "program": str(output / PROGRAM_FILE),
        "megabytes": report.program_bytes / 1e6,
        "share_of_f32_weights": report.program_bytes / report.weight_bytes,
        "rows_per_execution": manifest.rows,
        "state_size": manifest.state_size,
        "delegate_calls": report.delegate_calls,
        "multiply_adds_inside": report.inside_share,
        "outside_the_delegates": report.outside,
        "seconds": {"load": loaded, **report.seconds},
    }
    if report.generator:
        made = report.generator
        result["generator"] = str(output / GENERATE_FILE)
        result["generator_megabytes"] = made.program_bytes / 1e6
        result["generator_delegate_calls"] = made.delegate_calls
    return result if form == asked else {"inferred": described(form), **result}


def export_for_training(
    model: str, output: Path, asked: Asked, data: Path | None, *, dev: Path | None, dev_fraction: float,
    limit: int | None, seed: int, console: Console | None,
) -> dict[str, Any]:  # fmt: skip
    """The program that `prge train` makes of a model, with the directions of its training examples."""
    if data is None and not asked.task:
        raise UserError(f"{model} is no program; give the examples to make one for with --data, or a --task")
    whole = dev is not None or data is None or has_part(data, "dev") or not dev_fraction
    hold_out = None if whole else (dev_fraction, seed)
    return export(model, output, form_of(asked, data), standard, data, console, limit, hold_out, hub=data is None)
