"""What `prge export` does: a model in, a program out.

The exporter's libraries are imported when it is called, so that a device without them runs all other commands.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prge.commands.ask import settled
from prge.commands.first_run import remember
from prge.commands.fit import fit
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.detect import FormOptions
from prge.examples.form import Form
from prge.examples.tasks import find_task
from prge.files.folders import refuse_used
from prge.lora import adapter_folder, read_lora
from prge.manifest import ESTIMATES, GENERATE_FILE, PROGRAM_FILE, Gradient, Quantization
from prge.options import AnyPath, Option
from prge.quiet import quiet
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.program.base import is_program

if TYPE_CHECKING:
    from prge.export.config import ExportConfig

# So many tokens a program that continues text reads and writes.
CONTEXT = 2048


def parse_slice(text: str) -> slice:
    """'20:' as Python reads it; one number is that layer alone."""
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 or None)
    if len(parts) != 2:
        raise UserError(f"--layers {text!r}: write a slice, as '20:', ':4', '-10:' or ':' for all")
    return slice(*parts)


def export(
    model: Annotated[str, Option("A preset (smollm2-135m), folder, .gguf file or hub id.", argument=True)],
    output: Annotated[AnyPath, Option("New folder for program and tokenizer.", ("--output", "-o"))],
    form: FormOptions = FormOptions(),
    data: Annotated[
        AnyPath | None, Option("Examples: what you leave out is inferred from them, and they serve as --texts.")
    ] = None,
    texts: Annotated[
        AnyPath | None,
        Option("Examples like those to come; the adapter's directions are chosen for them. They need no labels."),
    ] = None,
    queries: Annotated[
        int | None,
        Option(
            "Random directions per step, of an estimate; default: 16, or 4 where the answer is text.",
            ("--queries", "-q"),
            least=1,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        Option(
            "Examples per step; default: 16, or 4 where the answer is text or the gradient is full.",
            ("--batch", "-b"),
            least=1,
        ),
    ] = None,
    gradient: Annotated[
        Gradient | None,
        Option(
            "How the gradient is had: back through the answering token alone (exact) or through all tokens (full); or "
            "estimated, from copies that differ in that token's activations, or in the weights as in the paper. "
            "Default: full with five to ten classes and where the answer is text, in rows of up to 256 tokens; else "
            "exact."
        ),
    ] = None,
    optimizer: Annotated[Literal["adam", "momentum", "sgd"], Option("The update rule.")] = "adam",
    fixed: Annotated[bool, Option("Make every row --max-tokens long, instead of any length up to that.")] = False,
    quantization: Annotated[
        Quantization, Option("Of the frozen weights: float32, int8, or int4 in groups of 32, 64 or 128.")
    ] = "8da8w",
    backend: Annotated[
        Literal["xnnpack", "portable"], Option("What runs the graph; portable: the float32 reference.")
    ] = "xnnpack",
    module: Annotated[
        tuple[str, ...],
        Option("Linear modules to adapt, by name or pattern; default: all but those that make keys or values."),
    ] = (),
    layers: Annotated[
        slice | None,
        Option(
            "Layers to adapt: '20:', ':4', '-10:', ':' for all; default: all, or of an estimate the upper half.",
            parse=parse_slice,
        ),
    ] = None,
    rank: Annotated[
        int | None, Option("LoRA's rank; default: 32, or 8 where the gradient is an estimate.", least=1)
    ] = None,
    alpha: Annotated[float | None, Option("LoRA's alpha; default: the rank.")] = None,
    subspace: Annotated[
        Literal["fisher", "svd", "none"] | None,
        Option(
            "What the adapter may change: directions chosen by --texts (fisher), the weights' own (svd), or all of B "
            "(none: LoRA-FA); default: fisher with --texts, else svd."
        ),
    ] = None,
    directions: Annotated[
        int | None,
        Option(
            "How many directions of each module's outputs to train (--subspace fisher); default: 16, or 4 where the "
            "gradient is an estimate.",
            least=1,
        ),
    ] = None,
    head: Annotated[
        bool | None,
        Option("Train the label words' rows of the head too, or not; default: where there are more than ten classes."),
    ] = None,
    noise: Annotated[Literal["rademacher", "gaussian"], Option("Distribution of the directions.")] = "rademacher",
    outer: Annotated[bool, Option("Run all queries in one execution; off: one after the other.")] = True,
    inner: Annotated[bool, Option("Run both signs of eps in one execution; off: one after the other.")] = True,
    eps: Annotated[float | None, Option("Default eps to store in the program.")] = None,
    lr: Annotated[float | None, Option("Default learning rate to store in the program.")] = None,
    generate: Annotated[
        bool, Option("Also write generate.pte, a program that continues text.", ("--generate",))
    ] = False,
    context: Annotated[
        int, Option("Most tokens of prompt and continuation together (--generate).", least=16)
    ] = CONTEXT,
    adapter: Annotated[AnyPath | None, Option("A PEFT adapter folder to go on from.")] = None,
    allow_pickle: Annotated[
        bool, Option("Also read pickled weights (pytorch_model.bin).", ("--allow-pickle",))
    ] = False,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Turn a Hugging Face model into a program that fine-tunes itself.

    Returns:
        ``program``, its path; ``megabytes``; ``rows_per_execution``; ``state_size``; ``delegate_calls`` per execution;
        ``multiply_adds_inside`` the delegates, a share; ``outside_the_delegates``, operators by name; ``seconds`` and
        ``peak_megabytes``, the greatest memory so far, by phase; ``inferred``, where something of the form was; and
        ``notes`` on how the data are read.

    Raises:
        UserError: the model or the data cannot be read, settings do not fit each other, or the folder is in use.
    """
    if texts and subspace not in (None, "fisher"):
        raise UserError(
            f"--texts choose the directions of --subspace fisher, not of {subspace}; leave one of the two out"
        )
    if adapter and (module or layers or rank or alpha or subspace or texts or head is not None):
        raise UserError(
            "--adapter says what trains: leave out --module, --layers, --rank, --alpha, --subspace, --head and --texts"
        )
    refuse_used(Path(output))
    reading = settled(form, Path(data) if data else None, hooks)
    of_form = reading.form
    examples = texts or data
    with quiet():
        from prge.export.config import ExportConfig, default_adapter
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    usually = default_adapter(gradient or "exact")
    rank = rank or usually.rank
    trains = AdapterConfig(
        rank=rank,
        alpha=rank if alpha is None else alpha,
        modules=module or None,
        layers=layers or usually.layers,
        subspace=None if subspace == "none" else subspace or ("fisher" if examples else "svd"),
        directions=directions or usually.directions,
        head=head,
    )

    def configure(form: Form) -> ExportConfig:
        asked = settings(form)
        way, size = usual(len(form.labels), asked["max_tokens"], gradient)
        try:
            step = StepConfig(
                queries or (size if way in ESTIMATES else 1), batch or size, way, optimizer, outer, inner, noise
            )
        except ValueError as e:
            raise UserError(str(e)) from e
        config = ExportConfig(
            trains, step, **asked, quantization=quantization, backend=backend, eps=eps, lr=lr,
            context=context if generate else 0,
        )  # fmt: skip
        return replace(config, min_tokens=config.max_tokens) if fixed else config

    source = Source(str(examples), dev_fraction=0.0) if examples else None
    result = export_form(
        model, Path(output), of_form, configure, source, hooks, adapter=Path(adapter) if adapter else None,
        allow_pickle=allow_pickle, labelled=texts is None,
    )  # fmt: skip
    return result | reading.told


def export_form(
    model: str,
    output: Path,
    form: Form,
    configure: Callable[[Form], ExportConfig],
    source: Source | None,
    hooks: Hooks,
    *,
    trains: bool = False,
    labelled: bool = True,
    adapter: Path | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Export a program for examples of a form.

    Args:
        form, configure, source, trains, labelled: as for `fit`. Where it trains next, a program that is there and was
            made of the same is taken as it is; any other is made anew.
        adapter: the PEFT adapter folder to go on from, in place of the config's own.
    """
    with quiet():
        from prge.export.from_peft import adapter_config
        from prge.export.program import export_program, request_of
        from prge.models.checkpoints import load_checkpoint

    lora = read_lora(adapter_folder(adapter)) if adapter else None

    def whole(form: Form) -> ExportConfig:
        config = configure(form)
        return replace(config, adapter=adapter_config(lora), lora=lora) if lora else config

    found = fit(model, form, whole, source, hooks, trains=trains, labelled=labelled, allow_pickle=allow_pickle)
    inferred = {"inferred": found.inferred} if found.inferred else {}
    if trains and is_program(output):
        if request_of(output) == found.request:
            hooks.tell(f"{output} was exported before, of the same model and examples: it is trained as it is.")
            return {**inferred, "program": str(output / PROGRAM_FILE), "seconds": {}}
        shutil.rmtree(output)
    hooks.show("load", 0, None, model)
    began = time.perf_counter()
    with quiet():
        checkpoint = load_checkpoint(model, allow_pickle, stored=found.config.quantization != "f32")
    loaded = time.perf_counter() - began
    manifest, report = export_program(
        checkpoint,
        found.config,
        output,
        lambda phase, done, total: hooks.show(phase, done, total, model),
        found.records,
        found.request,
    )
    remember(output / PROGRAM_FILE)
    result: dict[str, Any] = {
        **inferred,
        "program": str(output / PROGRAM_FILE),
        "megabytes": report.program_bytes / 1e6,
        "share_of_f32_weights": report.program_bytes / report.weight_bytes,
        "rows_per_execution": manifest.rows,
        "state_size": manifest.state_size,
        "delegate_calls": report.delegate_calls,
        "multiply_adds_inside": report.inside_share,
        "outside_the_delegates": report.outside,
        "seconds": {"load": loaded, **report.seconds},
        "peak_megabytes": report.peak_megabytes,
    }
    if report.generator:
        made = report.generator
        remember(output / GENERATE_FILE)
        result["generator"] = str(output / GENERATE_FILE)
        result["generator_megabytes"] = made.program_bytes / 1e6
        result["generator_delegate_calls"] = made.delegate_calls
    return result


def export_for_training(
    model: str, output: Path, asked: FormOptions, source: Source, hooks: Hooks, *, generate: bool = False
) -> dict[str, Any]:
    """The program that `prge train` makes of a model, with the directions of its training examples.

    Args:
        generate: whether to write `GENERATE_FILE` beside it, too.

    Returns:
        ``program``, ``generator``, ``export_seconds``, and ``inferred``, where something of the form was.
    """
    if source.train is None and not asked.task:
        raise UserError(f"{model} is no program; give the examples to make one for with --data, or a --task")
    reading = settled(asked, Path(source.train) if source.train else None, hooks)

    def configure(form: Form) -> ExportConfig:
        return replace(standard(form), context=CONTEXT if generate else 0)

    made = export_form(model, output, reading.form, configure, source, hooks, trains=True)
    kept = {name: made[name] for name in ("inferred", "program", "generator") if name in made}
    return kept | {"export_seconds": sum(made["seconds"].values())} | reading.told


# With so many classes the full gradient learned more, and faster: what a question asks for, in six classes. A topic out
# of seven, and few classes, it learned as well as the exact one does in less memory. Answers of text it learned better
# in the same time, because the tokens of an answer see each other (docs/bench.md).
_SEVERAL = range(5, 11)
# For longer rows too much would wait for the way back.
_SHORT = 256


def usual(classes: int, tokens: int, gradient: Gradient | None = None) -> tuple[Gradient, int]:
    """The gradient where none is given, and the default of B, and of an estimate's q.

    These are smaller where the answer is text, whose copies are long, and where the gradient is full: for that, all
    that the layers computed waits. An exact gradient of few classes learns as much from as many texts in smaller steps
    (docs/bench.md). Long rows come in smaller batches, so that a step takes no more memory.

    Args:
        classes: how many; 0 where the answer is text.
        tokens: the longest row.
    """
    learns_more = (not classes or classes in _SEVERAL) and tokens <= _SHORT
    way = gradient or ("full" if learns_more else "exact")
    size, most = (4, 4 * _SHORT) if way == "full" else (16, 16 * 512)
    if not classes:
        size = 4
    elif way == "exact" and classes < _SEVERAL.stop:
        size = 8
    while size > 1 and size * tokens > most:
        size //= 2
    return way, size


def settings(form: Form) -> dict[str, Any]:
    """A form as `ExportConfig` has it."""
    task = find_task(form.task) if form.task else None
    max_tokens = form.max_tokens or (task.max_tokens if task else 128)
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
        "max_targets": form.max_targets or (task.max_targets if task else 32),
    }


def standard(form: Form) -> ExportConfig:
    """The defaults for a form with texts."""
    with quiet():
        from prge.export.config import ExportConfig, default_adapter
        from prge.models.step import StepConfig

    asked = settings(form)
    gradient, batch = usual(len(form.labels), asked["max_tokens"])
    return ExportConfig(default_adapter(gradient), StepConfig(1, batch, gradient), **asked, quantization="8da8w")
