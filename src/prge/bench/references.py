"""Programs to measure against: matrix products, plain inference, and ExecuTorch's own training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, to_edge
from torch import Tensor, nn
from torchao.quantization import quantize_

from prge.bench.contenders import synthetic
from prge.cost import inference_tokens
from prge.eager import build_again
from prge.export.lower import example_inputs
from prge.export.quantize import QuantizedLinear, linear_config, quantize
from prge.export.write import write_program
from prge.manifest import Manifest
from prge.models.context import run_layers
from prge.models.objective import take_rows
from prge.models.positions import places
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.program.step import StepProgram


def write_products(path: Path, rows: int, size: int, depth: int, quantized: bool) -> None:
    """Write a chain of ``depth`` products ``W x`` with W [size, size], for ``rows`` rows, in float32 or as 8da8w.

    A chain, so that the fixed cost of an execution does not show.
    """
    linears = [nn.Linear(size, size, bias=False) for _ in range(depth)]
    module = nn.Sequential(*linears).requires_grad_(False)
    if quantized:
        quantize_(module, linear_config("8da8w"))
        for linear in linears:
            QuantizedLinear.of(linear, linear.weight)
    _write(path, module, lambda tokens: (torch.randn(1, tokens, size),), rows, rows, range(1))


def write_inference(path: Path, program: StepProgram) -> None:
    """Write the model alone, quantized as the program: losses of `Manifest.rows` rows, no adapter, noise or update."""
    m = program.manifest
    longest = inference_tokens(m, m.max_tokens)
    built = build_again(program, longest)
    for parent in list(built.step.backbone.layers.modules()):
        for name, child in list(parent.named_children()):
            if child in built.adapters:
                setattr(parent, name, child.base)
    with quiet():
        quantize(built.step, built.base_linears, m.quantization)
    least = longest if m.min_tokens == m.max_tokens else m.min_tokens
    layers = range(len(built.step.backbone.layers))
    _write(path, Inference(built.step), lambda tokens: example_inputs(built.step, tokens)[2:4], least, longest, layers)


class Inference(nn.Module):
    """Tokens in, losses out."""

    def __init__(self, step: Any):
        super().__init__()
        self.backbone, self.objective = step.backbone, step.objective

    def forward(self, tokens: Tensor, targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """tokens i64[R, T] and the objective's targets -> losses f32[R], and the objective's detail."""
        backbone = self.backbone
        hidden = run_layers(backbone.layers, backbone.embedding(tokens, places(tokens)), backbone.positions(tokens))
        position, *rest = targets
        losses, detail = self.objective(take_rows(hidden, position), *rest)
        losses = losses.sum(1)
        return losses, detail


class LabelLoss(nn.Module):
    """Mean loss over the label words, of a decoder that PEFT has adapted."""

    def __init__(self, decoder: nn.Module, head: Tensor):
        super().__init__()
        self.decoder, self.head = decoder, nn.Buffer(head)

    def forward(self, tokens: Tensor, position: Tensor, label: Tensor) -> Tensor:
        """tokens i64[B, T], position i64[B, 1], label i64[B] -> f32[]."""
        hidden = self.decoder(tokens, use_cache=False).last_hidden_state
        return nn.functional.cross_entropy(take_rows(hidden, position).squeeze(1) @ self.head.T, label)


def write_training(path: Path, m: Manifest, tokens: int) -> None:
    """Write a program for ExecuTorch's training module: LoRA, forward and backward in one graph, portable kernels."""
    from torch.export.experimental import _export_forward_backward

    from prge.bench.lora import LoraAdamW
    from prge.models.objective import LabelWords

    trainer = LoraAdamW(m, rank=8, seed=0, lr=0.0)
    assert isinstance(trainer.objective, LabelWords)
    trainer.decoder.config._attn_implementation = "eager"  # fused attention has no backward kernel there
    rows, targets = collate(synthetic(m, tokens, m.batch), m)
    table = torch.export.default_decompositions()
    table[torch.ops.aten.empty_permuted.default] = lambda size, order, dtype=None, **_: torch.zeros(size, dtype=dtype)
    with quiet():
        joint = _export_forward_backward(
            torch.export.export(LabelLoss(trainer.decoder, trainer.objective.head), (rows, *targets))
        )
        edge = to_edge(joint.run_decompositions(table), compile_config=EdgeCompileConfig(_check_ir_validity=False))
        with path.open("wb") as f:
            edge.to_executorch().write_to_file(f)


def _write(
    path: Path, module: nn.Module, inputs: Callable[[int], tuple[Any, ...]], least: int, longest: int, layers: range
) -> None:
    write_program(path, module, inputs, (least, longest), layers, "xnnpack", {})
