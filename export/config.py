"""What to export: the settings, their checks and their measured defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prge.errors import UserError
from prge.export.lower import Backend
from prge.export.quantize import Quantization
from prge.lora import Lora
from prge.manifest import template_columns
from prge.models.adapter import AdapterConfig, Subspace
from prge.models.step import Perturbation, StepConfig

# (eps in float32, eps quantized, lr with Adam): measured on SST-2, but for weights' lr. LoRA-FA's are the
# paper's; quantized, rounding would drown its eps.
_DEFAULTS: dict[tuple[Perturbation, Subspace | None], tuple[float, float, float]] = {
    ("activations", "fisher"): (0.02, 0.05, 5e-3),
    ("activations", "svd"): (0.05, 0.1, 1e-2),
    ("activations", "peft"): (0.02, 0.05, 5e-3),
    ("weights", "fisher"): (0.1, 0.2, 2e-3),
    ("weights", "peft"): (0.1, 0.2, 2e-3),
    ("weights", "svd"): (0.1, 0.2, 2e-3),
    ("weights", None): (1e-2, 1e-1, 5e-5),
}


def default_eps(adapter: AdapterConfig, step: StepConfig, quantization: Quantization) -> float:
    """The perturbation's size."""
    return _DEFAULTS[step.perturb, adapter.subspace][quantization != "f32"]


def default_lr(adapter: AdapterConfig, step: StepConfig) -> float:
    """Adam's steps have a size of their own; else it grows with the effective batch E = q B (measured for weights)."""
    if step.optimizer == "adam" or not adapter.subspace:
        return _DEFAULTS[step.perturb, adapter.subspace][2]
    return 0.1 * step.queries * step.batch / 32


@dataclass(frozen=True)
class ExportConfig:
    """What to export.

    Attributes:
        adapter, step: what trains, and the step's shape.
        template: the prompt, with the data's column names in braces.
        label_words: (label name, label word) pairs; empty for language modelling.
        label_column: the data's column of label names.
        target: template of the target text (language modelling).
        max_targets: most target tokens of an example (language modelling).
        choices, chat_template, special_tokens, task: as in the manifest.
        min_tokens, max_tokens: bounds of T; equal for a program of fixed length.
        quantization, backend: how weights are stored and where they run.
        eps, lr: what training uses by default; None for the measured defaults.
        context: the longest text of the program that generates, as far as the model reaches; 0 for none.
        lora: the PEFT adapter to go on from (``subspace="peft"``).
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
    """Refuse what could not be used, before anything slow happens.

    Raises:
        UserError: naming the setting.
    """
    if bool(config.label_words) == bool(config.target):
        raise UserError("give either the classes' label words (--label, once per class) or a --target template")
    for template in (config.template, config.target):
        template_columns(template)
    for name, value in (("eps", config.eps), ("lr", config.lr)):
        if value is not None and value <= 0:
            raise UserError(f"{name} must be above zero, not {value}")
    if not 1 <= config.min_tokens <= config.max_tokens:
        raise UserError(f"tokens must be 1 <= min ({config.min_tokens}) <= max ({config.max_tokens})")
    if config.min_tokens == 1 < config.max_tokens:
        raise UserError("a program of dynamic length needs at least 2 tokens (torch.export treats 1 apart)")
    if config.backend == "portable" and config.quantization != "f32":
        raise UserError("the portable backend is the float32 reference; use --backend xnnpack to quantize")
    if config.adapter.subspace == "fisher" and not records:
        raise UserError("the fisher subspace is taken from texts; give some with --texts")
