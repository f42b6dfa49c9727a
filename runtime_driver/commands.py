"""What the commands of the device's side do; `cli.py` holds their options, `exporting.py` the server's side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from prge.errors import UserError
from prge.folders import PROGRAM_FOLDER, refuse_used
from prge.lora import CONFIG_FILE, read_lora
from prge.manifest import TOKENIZER_FILE, template_columns
from prge.runtime_driver.adapter import fit_lora, load_state, steps_behind
from prge.runtime_driver.answers import score_answers
from prge.runtime_driver.calibrate import Estimates, plot_calibration, propose_lr
from prge.runtime_driver.calibrate import calibrate as measure
from prge.runtime_driver.console import progress_bar
from prge.runtime_driver.data import Encoder, Example, check_classes, without
from prge.runtime_driver.data_files import has_part
from prge.runtime_driver.evaluate import evaluate, warm_up
from prge.runtime_driver.generate import GenerateProgram
from prge.runtime_driver.memory import return_freed
from prge.runtime_driver.program import Program, StepProgram
from prge.runtime_driver.records import split
from prge.runtime_driver.runs import STATE_FILE, RunFolder, summary
from prge.runtime_driver.stopping import Stopping
from prge.runtime_driver.train import TrainConfig
from prge.runtime_driver.train import train as train_steps


def open_program(
    program: Path, tokenizer: Path | None, truncate: bool, runtime: str = "executorch", device: str = "cpu"
) -> tuple[StepProgram, Encoder]:
    """Load a program and the encoder that fits it."""
    if runtime == "torch":
        from prge.runtime_driver.torch_runtime import TorchProgram

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


def read_examples(
    encoder: Encoder, data: Path | None, dev: Path | None, dev_fraction: float, limit: int | None, seed: int
) -> tuple[list[Example], list[Example], int]:
    """(training examples, dev examples, how many of the former were left out because they are in dev).

    Dev is a file of its own, or the dev part of a folder or the hub, or else split off.
    """
    records = encoder.records(data)[:limit]
    if dev is None and (data is None or has_part(data, "dev")):
        held, dev = encoder.records(data, "dev"), data
    elif dev is not None:
        held = encoder.records(dev, "dev")
    else:
        records, held = split(records, encoder.form.text, dev_fraction, seed) if dev_fraction else (records, [])
    examples, dev_examples = encoder.encode_all(records, data), encoder.encode_all(held, dev or data)
    kept = without(examples, dev_examples)
    return kept, dev_examples, len(examples) - len(kept)


def train(
    program: Path, data: Path | None, output: Path, *, dev: Path | None, dev_fraction: float, limit: int | None,
    steps: int, lr: float | None, eps: float | None, seed: int, eval_every: int, truncate: bool,
    tokenizer: Path | None, console: Console | None, start: Path | None = None, runtime: str = "executorch",
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """`prge train`; ``start`` is its --from."""
    loaded, encoder = open_program(program, tokenizer, truncate, runtime, device)
    state = read_state(loaded, start)
    behind = steps_behind(state_file(start), loaded.manifest) if start else 0
    m = loaded.manifest
    eps = m.eps if eps is None else eps
    if eps <= 0:
        raise UserError(f"--eps must be above zero, not {eps}")
    examples, dev_examples, dropped = read_examples(encoder, data, dev, dev_fraction, limit, seed)
    source = str(data or m.task)
    if not examples:
        raise UserError(f"{source}: no example is left to train on beside those of the dev set")
    check_classes(examples, m, source)
    del encoder
    return_freed()
    described = {"train": source, "dev": str(dev or dev_fraction), "examples": len(examples), "dropped": dropped}
    if start:
        described["from"] = str(start)
    refuse_used(output, but=PROGRAM_FOLDER)
    began = time.perf_counter()
    with progress_bar(console) as progress:
        bar = progress.add_task("loading", total=None, note="")
        warm_up(loaded, [*examples, *dev_examples])
        if lr is None:
            progress.update(bar, description="calibrating", note="learning rate")
            lr = propose_lr(Estimates(loaded, examples, state), eps)[0]
    config = TrainConfig(steps, lr, eps, seed, eval_every, behind)
    run = RunFolder(output, loaded, config, described)

    records, interrupted, before = [], False, None
    with progress_bar(console) as progress, Stopping() as stopping:
        bar = progress.add_task("evaluating", total=len(dev_examples), note="before training")

        def evaluating(done: int) -> None:
            stopping.check()
            progress.update(bar, completed=done)

        try:
            if dev_examples:
                before = evaluate(loaded, state, dev_examples, evaluating)
            note = _scores(before)
            progress.reset(bar, total=steps, description="training", note=note)
            mean = 0.0
            for new_state, record in train_steps(
                loaded, state, examples, dev_examples, config, evaluating=lambda done: stopping.check()
            ):
                state = new_state
                records.append(record)
                run.log(record)
                mean += (record.loss - mean) / min(len(records), 20)
                note = _scores(record.evaluation) or note
                speed = sum(r.seconds for r in records[-20:]) / len(records[-20:])
                progress.update(bar, completed=record.step + 1, note=f"loss {mean:.3f} {note}{1 / speed:.2f} steps/s")
                if record.backed_off:
                    progress.console.print(
                        f"step {record.step + 1}: the loss diverged; back to the best state, lr halved"
                    )
                stopping.check()
        except KeyboardInterrupt:
            interrupted = True
        except UserError:
            run.finish(state, records, before)
            raise
    if not records:
        raise UserError(f"interrupted before the first step; {output} holds its configuration only")
    after = next((r for r in reversed(records) if r.evaluation), None)
    result: dict[str, Any] = {"completed": not interrupted, "steps": len(records), "lr": config.lr}
    if before:
        result["before"] = summary(before)
    if after and after.evaluation:
        result["after"] = {"steps": after.step + 1, **summary(after.evaluation)}
    result["seconds"] = time.perf_counter() - began
    result["seconds_per_step"] = torch.tensor([r.seconds for r in records]).median().item()
    if any(r.backed_off for r in records):
        result["backed_off"] = [r.step + 1 for r in records if r.backed_off]
    if dropped:
        result["left_out"] = f"{dropped} training examples that are also in the dev set"
    return result | run.finish(state, records, before)


def _scores(evaluation: Any) -> str:
    if evaluation is None:
        return ""
    name, value = list(summary(evaluation).items())[-1]
    return f"dev {name} {value:.3f} "


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
