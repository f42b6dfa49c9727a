"""A program's step in eager PyTorch, on this machine's CPU or GPU, rebuilt from its manifest and its base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.quiet import quiet
from prge.runtime_driver.program.state import frozen_factors
from prge.runtime_driver.program.step import StepProgram


class TorchProgram(StepProgram):
    """A program whose step PyTorch runs. The ``.pte`` gives the manifest and the frozen factors.

    In float32 its losses are the program's within 1e-5. In a quantized program torchao rounds weights and activations
    as the delegates do, but in float32 arithmetic. A value near the middle between two roundings may go the other way,
    so on a deep model an example's loss differs by as much as quantization itself changes it.

    Attributes:
        device: where the step runs.
        module: the step.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        """Load a program and its base model, and rebuild the step.

        Args:
            path: a ``.pte``, or its folder.
            device: ``"cpu"``, ``"cuda"``, or one of several GPUs, as ``"cuda:1"``.

        Raises:
            UserError: this machine has no such device; or as `StepProgram` and `build_again`.
        """
        super().__init__(path)
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as e:
            raise UserError(f"--device {device}: PyTorch has no such device here ({str(e).splitlines()[0]})") from e
        self.runtime = f"torch {self.device}"
        m = self.manifest
        built = build_again(self, m.max_tokens)
        with quiet():
            from prge.export.quantize import quantize

            quantize(built.step, built.base_linears, m.quantization)
        self.module = built.step.eval().to(self.device)

    def compute_states(self, tokens: Tensor) -> Tensor:
        """As `StepProgram.compute_states`, by PyTorch."""
        with torch.no_grad():
            found: Tensor = self.module.backbone.frozen(tokens.to(self.device)).cpu()
        return found

    def execute(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As `StepProgram.execute`; takes and gives tensors on the CPU."""
        hidden = self.states(tokens) if hidden is None else hidden
        scalars = torch.tensor([seed]), torch.tensor([lr], dtype=torch.float32), torch.tensor([eps])
        state, hidden, tokens, *rest = (t.to(self.device) for t in (state, hidden, tokens, *targets, *scalars))
        with torch.no_grad():
            results = self.module(state, hidden, tokens, tuple(rest[: len(targets)]), *rest[len(targets) :])
        new_state, losses, detail = (t.cpu() for t in results)
        return new_state, losses, detail


def build_again(program: StepProgram, max_tokens: int) -> Any:
    """The `BuiltStep` that a program was traced from, before it was quantized.

    Args:
        max_tokens: the longest row that it is to run.

    Raises:
        UserError: the program's base model cannot be loaded, or has other weights than it had.
    """
    with quiet():
        from prge.models.adapter import AdapterConfig
        from prge.models.build import LabelWordsObjective, LanguageModelObjective, add_label_head, build_step
        from prge.models.checkpoints import load_checkpoint
        from prge.models.step import StepConfig

        m = program.manifest
        checkpoint = load_checkpoint(m.model)
    if checkpoint.digest() != m.model_sha256:
        raise UserError(f"{m.model} has other weights than the program was made of")
    fields: dict[str, Any] = {"subspace": m.adapter.subspace, "directions": m.adapter.modules[0].core[1]}
    fields["head"] = m.adapter.head is not None
    modules = tuple(module.name for module in m.adapter.modules)
    adapter = AdapterConfig(m.adapter.rank, m.adapter.alpha, modules, slice(None), **fields)
    step: dict[str, Any] = {"gradient": m.gradient, "optimizer": m.optimizer, "noise": m.noise}
    config = StepConfig(m.queries, m.batch, outer=m.outer, inner=m.inner, **step)
    objective = LabelWordsObjective(m.words) if m.words else LanguageModelObjective(m.max_targets)
    tied = m.quantization == "f32"
    if m.answer_at == "first":
        add_label_head(checkpoint.model, [checkpoint.tokenizer(label.word)["input_ids"] for label in m.labels])
    return build_step(
        checkpoint.model, adapter, config, objective, max_tokens,
        share_table=tied, factors=frozen_factors(m, program.frozen()), pad_token=m.pad_token,
    )  # fmt: skip
