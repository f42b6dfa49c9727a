"""What to export: the settings, their checks and their measured defaults."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prge.errors import UserError
from prge.examples.form import template_columns
from prge.export.lower import Backend
from prge.lora import Lora
from prge.manifest import ESTIMATES, Gradient, Quantization
from prge.models.adapter import AdapterConfig, Subspace
from prge.models.step import StepConfig

# (eps in float32, eps quantized, lr with Adam), measured on SST-2, except the lr of perturbed weights. Those of LoRA-FA
# are the paper's, except the quantized eps: the paper's would drown in rounding.
_DEFAULTS: dict[tuple[Gradient, Subspace | None], tuple[float, float, float]] = {
    ("full", "fisher"): (1.0, 1.0, 5e-3),  # eps is not used
    ("full", "svd"): (1.0, 1.0, 5e-3),
    ("full", "peft"): (1.0, 1.0, 5e-3),
    ("exact", "fisher"): (1.0, 1.0, 5e-3),
    ("exact", "svd"): (1.0, 1.0, 5e-3),
    ("exact", "peft"): (1.0, 1.0, 5e-3),
    ("activations", "fisher"): (0.02, 0.05, 5e-3),
    ("activations", "svd"): (0.05, 0.1, 1e-2),
    ("activations", "peft"): (0.02, 0.05, 5e-3),
    ("weights", "fisher"): (0.1, 0.2, 2e-3),
    ("weights", "peft"): (0.1, 0.2, 2e-3),
    ("weights", "svd"): (0.1, 0.2, 2e-3),
    ("weights", None): (1e-2, 1e-1, 5e-5),
}


def default_adapter(gradient: Gradient) -> AdapterConfig:
    """The adapter in the fisher subspace. Noise grows with what trains, and an exact gradient has none: all layers."""
    if gradient in ESTIMATES:
        return AdapterConfig(8, 8, subspace="fisher", directions=4)
    return AdapterConfig(32, 32, layers=slice(None), subspace="fisher", directions=16)


def default_eps(adapter: AdapterConfig, step: StepConfig, quantization: Quantization) -> float:
    """The perturbation's size that a program recommends."""
    return _DEFAULTS[step.gradient, adapter.subspace][quantization != "f32"]


def default_lr(adapter: AdapterConfig, step: StepConfig) -> float:
    """The learning rate that a program recommends.

    Adam's steps have a size of their own. Those of the other rules grow with the effective batch E = q B (measured for
    perturbed weights).
    """
    if step.optimizer == "adam" or not adapter.subspace:
        return _DEFAULTS[step.gradient, adapter.subspace][2]
    return 0.1 * step.queries * step.batch / 32


@dataclass(frozen=True)
class ExportConfig:
    """What to export.

    Attributes:
        adapter: what trains.
        step: the step's shape.
        template: the prompt, with the data's column names in braces; empty for plain text.
        label_words: (label name, label word) of each class; empty for language modelling.
        label_column: the data's column of label names.
        target: the answer's template, for language modelling; empty for classification.
        max_targets: most target tokens of an example (language modelling).
        choices: the data's column of candidate answers, for multiple choice; empty otherwise.
        chat_template: the chat's template, in jinja, where the data are chats; else empty.
        special_tokens: the tokens that the chat's template names.
        task: the named task that the program is for; empty for none.
        min_tokens, max_tokens: bounds of T, tokens of a row; equal for a program of one length.
        quantization: how weights are stored.
        backend: what runs the frozen layers.
        eps: the perturbation's size that training uses by default; None for the measured one.
        lr: the learning rate that training uses by default; None for the measured one.
        context: most tokens of a text to generate, prompt included; at most as many as the model can read. 0 for no
            program that generates.
        lora: the PEFT adapter to go on from, with ``subspace="peft"``; else None.
    """

    adapter: AdapterConfig
    step: StepConfig
    template: str
    label_words: tuple[tuple[str, str], ...] = ()
    label_column: str = "label"
    target: str = ""
    max_targets: int = 32
    choices: str = ""
    chat_template: str = ""
    special_tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    task: str = ""
    min_tokens: int = 4
    max_tokens: int = 128
    quantization: Quantization = "f32"
    backend: Backend = "xnnpack"
    eps: float | None = None
    lr: float | None = None
    context: int = 0
    lora: Lora | None = None


def check_config(config: ExportConfig, records: Sequence[Mapping[str, str]]) -> None:
    """Refuse settings that contradict each other, whatever the model.

    Args:
        records: the example texts that the adapter's directions are to be taken from.

    Raises:
        UserError: naming the setting.
    """
    adapter, backend = config.adapter, config.backend
    if bool(config.label_words) == bool(config.target):
        raise UserError("give either the classes' label words (--label, once per class) or a --target template")
    for template in (config.template, config.target):
        template_columns(template)
    for name, value in (("eps", config.eps), ("lr", config.lr), ("alpha", adapter.alpha)):
        if value is not None and not _usable(value):
            raise UserError(f"--{name} must be above zero, and a number that float32 can hold, not {value}")
    if adapter.rank < 1 or adapter.directions < 1:
        raise UserError(f"--rank ({adapter.rank}) and --directions ({adapter.directions}) must be at least 1")
    if config.min_tokens == 1:
        raise UserError("a row needs at least 2 tokens, not 1")
    if config.context and config.context < 2:
        raise UserError(f"--context must be at least 2 tokens, not {config.context}")
    if backend == "portable" and config.quantization != "f32":
        raise UserError("the portable backend is the float32 reference; use --backend xnnpack to quantize")
    if backend == "portable" and config.min_tokens < config.max_tokens:
        raise UserError("the portable backend runs rows of one length only; add --fixed")
    if config.step.gradient != "weights" and not adapter.subspace:
        raise UserError("without a subspace LoRA-FA trains: --subspace none needs --gradient weights")
    if adapter.subspace == "fisher" and not records:
        raise UserError("the fisher subspace is taken from texts; give some with --texts")
    if adapter.subspace != "fisher" and records:
        raise UserError(
            f"texts choose the directions of the fisher subspace, and the subspace is {adapter.subspace or 'none'}; "
            "leave --texts out, or take --subspace fisher"
        )


def _usable(value: float) -> bool:
    """Whether a number is above zero and finite in float32 too, which the program computes in."""
    try:
        return 0 < struct.unpack("f", struct.pack("f", value))[0] < math.inf
    except OverflowError:
        return False
