"""What the commands of the server's side do: export, plan, and the demo.

Their libraries are imported when they are called, so a device without them runs all others.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from prge.errors import UserError
from prge.lora import adapter_folder, read_lora
from prge.manifest import GENERATE_FILE, PROGRAM_FILE, template_columns
from prge.quiet import quiet
from prge.runtime_driver.commands import predict, train
from prge.runtime_driver.console import progress_bar
from prge.runtime_driver.data import read_records

if TYPE_CHECKING:
    from prge.export.program import ExportConfig

DEMO_TEMPLATE = "{text} This is"
DEMO_LABELS = (("today", " urgent"), ("later", " good"))


def export(
    model: str, output: Path, config: ExportConfig, texts: Path | None, console: Console | None,
    adapter: Path | None = None, allow_pickle: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`prge export`; ``adapter`` is the PEFT adapter folder to go on from, in place of the config's own."""
    with quiet():
        from prge.export.from_peft import adapter_config
        from prge.export.program import export_program
        from prge.models.checkpoints import load_checkpoint

    if adapter:
        lora = read_lora(adapter_folder(adapter))
        config = replace(config, adapter=adapter_config(lora), lora=lora)
    columns = template_columns(config.template) + template_columns(config.target)
    records = [record for _, record in read_records(texts, [*columns, config.label_column])] if texts else []
    with progress_bar(console) as progress:
        bar = progress.add_task("load", total=None, note=model)
        began = time.perf_counter()
        with quiet():
            checkpoint = load_checkpoint(model, allow_pickle)
        loaded = time.perf_counter() - began
        manifest, report = export_program(
            checkpoint, config, output, lambda phase: progress.update(bar, description=phase), records
        )
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
    return result


def plan(model: str, memory: float, tokens: int, queries: int, batch: int, max_targets: int) -> dict[str, Any]:
    """`prge plan`; ``memory`` in bytes, of the whole process."""
    with quiet():
        from prge.export.plan import plan as fitting
        from prge.export.plan import planned
        from prge.models.checkpoints import load_sizes
        from prge.models.step import StepConfig

        sizes = load_sizes(model)
    try:
        manifest = planned(sizes, StepConfig(queries, batch), tokens, max_targets)
    except ValueError as e:
        raise UserError(f"{model}: {e}") from e
    # What a driver takes before it has loaded anything, measured here.
    code = "from prge.runtime_driver import cli, program, memory; program.runtime(); print(memory.peak_megabytes())"
    imports = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {
        "queries": queries,
        "batch": batch,
        "tokens": tokens,
        "imports_bytes": round(imports * 2**20),
        "rows": fitting(manifest, memory - imports * 2**20),
    }


def demo(output: Path, model: str, steps: int, console: Console | None) -> dict[str, Any]:
    """`prge demo`: export, train, and predict three messages of the test set; what is done is reused."""
    with quiet():
        from prge.export.program import ExportConfig
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    program, run = output / f"program-{Path(model).stem}", output / f"run-{Path(model).stem}-{steps}-steps"
    done = run / "result.json"
    files = resources.files("prge.runtime_driver") / "demo"
    with resources.as_file(files / "train.tsv") as train_file, resources.as_file(files / "test.tsv") as test_file:
        if not program.exists():
            config = ExportConfig(
                adapter=AdapterConfig(subspace="fisher"),
                step=StepConfig(),
                template=DEMO_TEMPLATE,
                label_words=DEMO_LABELS,
                max_tokens=64,
                quantization="8da8w",
            )
            export(model, program, config, train_file, console)
        if not done.exists():
            shutil.rmtree(run, ignore_errors=True)  # an interrupted one
            trained = train(
                program, train_file, run, dev=test_file, dev_fraction=0.0, limit=None, steps=steps, lr=None, eps=None,
                seed=0, eval_every=max(1, steps // 5), truncate=False, tokenizer=None, console=console,
            )  # fmt: skip
            if not trained["completed"]:
                return trained
            done.write_text(json.dumps(trained) + "\n")
        trained = json.loads(done.read_text())
        texts = [record["text"] for _, record in read_records(test_file)[:3]]
    result = {k: trained[k] for k in ("before", "after", "seconds", "seconds_per_step", "picture", "adapter")}
    for i, p in enumerate(predict(program, texts, None, run, False, None), 1):
        result[f"prediction_{i}"] = f"{p['label']} ({p['probability']:.2f}): {p['text']}"
    return result
