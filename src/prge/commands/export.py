"""What `prge export` does: a model in, a program out.

The exporter's libraries are imported when it is called, so that a device without them runs all other commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prge.commands.ask import settled
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.detect import FormOptions, described
from prge.examples.form import Form
from prge.examples.keep import keep
from prge.examples.read import has_part
from prge.lora import adapter_folder, read_lora
from prge.manifest import ESTIMATES, GENERATE_FILE, PROGRAM_FILE
from prge.options import AnyPath, Option
from prge.quiet import quiet

if TYPE_CHECKING:
    from prge.export.config import ExportConfig


# Rows that are longer are worth a word.
_LONG = 512


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
        Option("Examples per step; default: 16, or 4 where the answer is text.", ("--batch", "-b"), least=1),
    ] = None,
    gradient: Annotated[
        Literal["full", "exact", "activations", "weights"],
        Option(
            "How the gradient is had: exactly, back through the answering token; or estimated, from copies that differ "
            "in that token's activations, or in the weights as in the paper."
        ),
    ] = "exact",
    optimizer: Annotated[Literal["adam", "momentum", "sgd"], Option("The update rule.")] = "adam",
    fixed: Annotated[bool, Option("Make every row --max-tokens long, instead of any length up to that.")] = False,
    quantization: Annotated[
        Literal["f32", "8da8w", "8da4w"], Option("Of the frozen weights: float32, int8, or int4 in groups of 32.")
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
    noise: Annotated[Literal["rademacher", "gaussian"], Option("Distribution of the directions.")] = "rademacher",
    outer: Annotated[bool, Option("Run all queries in one execution; off: one after the other.")] = True,
    inner: Annotated[bool, Option("Run both signs of eps in one execution; off: one after the other.")] = True,
    eps: Annotated[float | None, Option("Default eps to store in the program.")] = None,
    lr: Annotated[float | None, Option("Default learning rate to store in the program.")] = None,
    generate: Annotated[
        bool, Option("Also write generate.pte, a program that continues text.", ("--generate",))
    ] = False,
    context: Annotated[int, Option("Most tokens of prompt and continuation together (--generate).", least=16)] = 2048,
    adapter: Annotated[AnyPath | None, Option("A PEFT adapter folder to go on from.")] = None,
    allow_pickle: Annotated[
        bool, Option("Also read pickled weights (pytorch_model.bin).", ("--allow-pickle",))
    ] = False,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Turn a Hugging Face model into a program that fine-tunes itself.

    Returns:
        ``program``, its path; ``megabytes``; ``rows_per_execution``; ``state_size``; ``delegate_calls`` per execution;
        ``multiply_adds_inside`` the delegates, a share; ``outside_the_delegates``, operators by name; ``seconds`` by
        phase; ``inferred``, where something of the form was; and ``notes`` on how the data are read.

    Raises:
        UserError: the model or the data cannot be read, settings do not fit each other, or the folder is in use.
    """
    if texts and subspace not in (None, "fisher"):
        raise UserError(
            f"--texts choose the directions of --subspace fisher, not of {subspace}; leave one of the two out"
        )
    if adapter and (module or layers or rank or alpha or subspace or texts):
        raise UserError(
            "--adapter says what trains: leave out --module, --layers, --rank, --alpha, --subspace and --texts"
        )
    with quiet():
        from prge.export.config import ExportConfig, default_adapter
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    reading = settled(form, Path(data) if data else None, hooks)
    of_form = reading.form
    examples = texts or data
    usually = default_adapter(gradient)
    rank = rank or usually.rank
    size = usual(of_form)
    try:
        step = StepConfig(
            queries or (size if gradient in ESTIMATES else 1), batch or size, gradient, optimizer, outer, inner, noise
        )
    except ValueError as e:
        raise UserError(str(e)) from e
    trains = AdapterConfig(
        rank=rank,
        alpha=rank if alpha is None else alpha,
        modules=module or None,
        layers=layers or usually.layers,
        subspace=None if subspace == "none" else subspace or ("fisher" if examples else "svd"),
        directions=directions or usually.directions,
    )

    def configure(form: Form) -> ExportConfig:
        config = ExportConfig(
            trains, step, **settings(form), quantization=quantization, backend=backend, eps=eps, lr=lr,
            context=context if generate else 0,
        )  # fmt: skip
        return replace(config, min_tokens=config.max_tokens) if fixed else config

    result = export_form(
        model, Path(output), of_form, configure, Path(examples) if examples else None, hooks,
        adapter=Path(adapter) if adapter else None, allow_pickle=allow_pickle,
    )  # fmt: skip
    return result | reading.told


def export_form(
    model: str,
    output: Path,
    form: Form,
    configure: Callable[[Form], ExportConfig],
    texts: Path | None,
    hooks: Hooks,
    limit: int | None = None,
    hold_out: tuple[float, int] | None = None,
    dev: Path | None = None,
    hub: bool = False,
    adapter: Path | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Export a program for examples of a form.

    Args:
        form: what an example is. What it leaves open is taken from the tokenizer and the texts, and told.
        texts: examples for the adapter's directions and the form's bounds; None with ``hub`` for the task's.
        limit: use the first so many of them.
        hold_out: (fraction, seed) of the `split` whose dev part gives no directions.
        dev: more examples, which the form's bounds must hold too.
        adapter: the PEFT adapter folder to go on from, in place of the config's own.
    """
    with quiet():
        from prge.export.fit_form import fitted
        from prge.export.from_peft import adapter_config
        from prge.export.program import export_program
        from prge.models.checkpoints import load_checkpoint

    lora = read_lora(adapter_folder(adapter)) if adapter else None
    records = form.records(texts) if (texts or hub) and not form.chat else []
    hooks.show("load", 0, None, model)
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
    if hold_out:  # as training divides them
        records = keep(form, records, texts or form.task).records
    records = records[:limit]
    if checkpoint.answer_at == "mask" and form.open and "{mask}" not in form.template:
        form = replace(form, template=form.template + " {mask}")
    held = form.records(dev, "dev") if dev else []
    form = fitted(form, checkpoint, [*records, *held] if records else [], texts or form.task)
    if asked.labels and not form.labels:
        hooks.tell(f"{len(asked.labels)} classes are more than there are words for: their names are learned as text")
    if asked.max_tokens is None and (form.max_tokens or 0) > _LONG:
        hooks.tell(
            f"The longest example has about {form.max_tokens} tokens, and a step's memory grows with it; to cut what "
            f"is longer than {_LONG}: --max-tokens {_LONG}, and then --truncate"
        )
    if hold_out and records:
        records, _ = form.divide(records, *hold_out)
    if form != asked:
        lines = [f"  {name}: {value}" for name, value in described(form).items()]
        hooks.tell("\n".join([f"Inferred from {texts or form.task}", *lines]))
    config = configure(form)
    if lora:
        config = replace(config, adapter=adapter_config(lora), lora=lora)
    manifest, report = export_program(
        checkpoint, config, output, lambda phase: hooks.show(phase, 0, None, model),
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
    model: str, output: Path, asked: FormOptions, data: Path | None, *, dev: Path | None, dev_fraction: float,
    limit: int | None, seed: int, hooks: Hooks,
) -> dict[str, Any]:  # fmt: skip
    """The program that `prge train` makes of a model, with the directions of its training examples."""
    if data is None and not asked.task:
        raise UserError(f"{model} is no program; give the examples to make one for with --data, or a --task")
    if dev is None and data is not None and has_part(data, "dev"):
        dev = data
    hold_out = None if dev or data is None or not dev_fraction else (dev_fraction, seed)
    reading = settled(asked, data, hooks)
    result = export_form(
        model, output, reading.form, standard, data, hooks, limit, hold_out, dev, hub=data is None
    )  # fmt: skip
    return result | reading.told


def usual(form: Form) -> int:
    """The default of B, and of an estimate's q: smaller where the answer is text, whose copies are long."""
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
        from prge.export.config import ExportConfig, default_adapter
        from prge.models.step import StepConfig

    return ExportConfig(
        default_adapter("exact"), StepConfig(1, usual(form), "exact"), **settings(form), quantization="8da8w"
    )
