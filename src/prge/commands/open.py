"""What the commands of the device's side do; `cli.py` holds their options, `exporting.py` the server's side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from prge.commands.answers import score_answers
from prge.commands.screen import progress_bar
from prge.errors import UserError
from prge.lora import CONFIG_FILE, read_lora
from prge.manifest import TOKENIZER_FILE, template_columns
from prge.memory import return_freed
from prge.runtime_driver.data.encoder import Encoder, Example
from prge.runtime_driver.loop.calibrate import calibrate as measure
from prge.runtime_driver.loop.calibrate import plot_calibration
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.program.state import fit_lora, load_state
from prge.runtime_driver.program.step import Program, StepProgram
from prge.runtime_driver.run.folder import summary
from prge.runtime_driver.run.snapshots import STATE_FILE


def open_program(
    program: Path, tokenizer: Path | None, truncate: bool, runtime: str = "executorch", device: str = "cpu"
) -> tuple[StepProgram, Encoder]:
    """Load a program and the encoder that fits it."""
    if runtime == "torch":
        from prge.eager import TorchProgram

        loaded: StepProgram = TorchProgram(program, device)
    elif device != "cpu":
        raise UserError(f"--device {device}: the ExecuTorch runtime runs on the CPU; give --runtime torch too")
    else:
        loaded = StepProgram(program)
    beside = loaded.path.parent / TOKENIZER_FILE
    return loaded, Encoder(loaded.manifest, tokenizer or beside, truncate=truncate)


def read_state(program: Program, state: Path | None) -> Tensor:
    """The state of a run folder, a file or a PEFT adapter folder; without one, the initial state."""
    if state is None:
        return program.initial_state()
    if (state / CONFIG_FILE).is_file():
        return fit_lora(read_lora(state), program.manifest, program.frozen())
    return load_state(state_file(state), program.manifest)


def state_file(path: Path) -> Path:
    return path / STATE_FILE if path.is_dir() else path


def calibrate(
    program: Path, data: Path | None, output: Path | None, *, limit: int | None, minutes: float | None,
    megabytes: float | None, truncate: bool, tokenizer: Path | None, console: Console | None,
) -> dict[str, Any]:  # fmt: skip
    """`prge calibrate`."""
    loaded, encoder = open_program(program, tokenizer, truncate)
    examples = encoder.examples(data, limit)
    del encoder
    return_freed()
    with progress_bar(console) as progress:
        bar = progress.add_task("calibrating", total=None, note="")
        found = measure(loaded, examples, lambda text: progress.update(bar, note=text))
    m = loaded.manifest
    result: dict[str, Any] = {
        "eps": found.eps,
        "lr": found.lr,
        "correlation_with_exact": {f"{eps:g}": correlation for eps, correlation in found.by_eps},
        "shares": {
            "signal": found.signal,
            "noise of directions": found.directions,
            "noise of examples": found.examples,
        },
        "seconds_per_step": found.seconds_per_step,
        "exported": {"queries": m.queries, "batch": m.batch},
        "proposed": {"queries": found.queries, "batch": found.batch},
    }
    if megabytes is not None:
        bound = found.largest_batch(megabytes)
        if bound < 1:
            raise UserError(f"{megabytes:g} MB do not hold one example of this program; its weights alone take more")
        result["proposed"]["batch"] = min(found.batch, bound)
    if minutes is not None:
        share = result["proposed"]["batch"] / found.batch
        result["proposed"]["steps"] = int(minutes * 60 / found.seconds_per_step / share)
    if output is not None:
        plot_calibration(output, found)
        result["picture"] = str(output)
    return result


def evaluate_file(
    program: Path, data: Path | None, state: Path | None, truncate: bool, tokenizer: Path | None,
    runtime: str = "executorch", device: str = "cpu", generate: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`prge eval`."""
    loaded, encoder = open_program(program, tokenizer, truncate, runtime, device)
    m, records, trained = loaded.manifest, encoder.records(data, "dev"), read_state(loaded, state)
    examples = encoder.encode_all(records, data)
    found = {"examples": len(examples), **summary(evaluate(loaded, trained, examples))}
    if generate:
        if m.objective == "label-words" or m.choices:
            raise UserError(f"{loaded.path} chooses among given answers; --generate is for those that write theirs")
        found |= score_answers(GenerateProgram(loaded.path.parent), encoder, records, trained)
    return found


def predict(
    program: Path, texts: Sequence[str], data: Path | None, state: Path | None, truncate: bool, tokenizer: Path | None,
    runtime: str = "executorch", device: str = "cpu",
) -> list[dict[str, Any]]:  # fmt: skip
    """`prge predict`: the label, its probability among the labels, and the text, of each."""
    loaded, encoder = open_program(program, tokenizer, truncate, runtime, device)
    m = loaded.manifest
    if m.objective != "label-words":
        raise UserError(f"{loaded.path} has no label words to predict; `prge eval` gives its loss on a text")
    columns = template_columns(m.template)
    if texts and len(columns) != 1:
        raise UserError(f"the template {m.template!r} takes {len(columns)} columns; give --data with them")
    records = [(f"text {i}", {columns[0]: text}) for i, text in enumerate(texts, 1)]
    if data is not None:
        for number, record in encoder.records(data):
            record.pop(m.label_column, None)
            records.append((f"{data}, line {number}", record))
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
    return [
        {"label": m.labels[int(p.argmax())].name, "probability": float(p.max()), "text": " ".join(record.values())}
        for p, (_, record) in zip(scores.softmax(1), records, strict=True)
    ]


def inspect(program: Path, full: bool) -> dict[str, Any]:
    """`prge inspect`; ``full`` gives the whole manifest."""
    loaded = StepProgram(program)
    m = loaded.manifest
    if full:
        return {"path": str(loaded.path), "bytes": loaded.path.stat().st_size, **asdict(m)}
    last = [module.name.split(".")[-1] for module in m.adapter.modules]
    return {
        "model": m.model,
        "quantization": m.quantization,
        "bytes": loaded.path.stat().st_size,
        "objective": m.objective + (", chat" if m.chat_template else ", multiple choice" if m.choices else ""),
        **({"task": m.task} if m.task else {}),
        "template": m.template + (f" -> {m.target}" if m.target else ""),
        "labels": ", ".join(f"{x.name} ={x.word}" for x in m.labels),
        "queries x batch": f"{m.queries} x {m.batch} ({m.rows} rows per execution)",
        "estimator": f"perturbed {m.perturb}, {m.noise} directions, {m.optimizer}",
        "tokens": f"{m.min_tokens} to {m.max_tokens}" if m.min_tokens < m.max_tokens else m.max_tokens,
        "adapter": f"rank {m.adapter.rank}, alpha {m.adapter.alpha:g}, subspace {m.adapter.subspace or 'none'}",
        "adapted": ", ".join(f"{last.count(name)} {name}" for name in dict.fromkeys(last)),
        "state": f"{m.state_size:,} numbers",
        "eps, lr": f"{m.eps:g}, {m.lr:g}",
    }
