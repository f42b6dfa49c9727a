"""The program beside the step's that continues text with its state."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from prge.errors import UserError
from prge.export.lower import Backend
from prge.export.quantize import Quantization, quantize
from prge.export.report import Written
from prge.export.write import write_program
from prge.manifest import GENERATE_FILE, Manifest
from prge.models.build import BuiltStep
from prge.models.checkpoints import Checkpoint
from prge.models.families import FAMILIES
from prge.models.generation import Generator

# Most tokens of one execution: longer prompts are read in several, so that the memory for scores is bounded.
_CHUNK = 128


def write_generator(
    folder: Path,
    checkpoint: Checkpoint,
    built: BuiltStep,
    manifest: Manifest,
    frozen: torch.Tensor,
    context: int,
    backend: Backend,
) -> Written:
    """Write ``generate.pte`` of the layers of ``built``, which is consumed: its step was traced before.

    Args:
        manifest, frozen: the step's.
        context: the longest text; not longer than ``built`` was made for.
    """
    quantization: Quantization = manifest.quantization
    generator = Generator(built, share_table=quantization == "f32")
    head = built.parts.head
    if not any(linear is head for linear in built.base_linears):  # the step has its label words' rows only
        quantize(generator, [head], quantization)
    chunk = min(_CHUNK, context)
    described = dataclasses.replace(
        manifest, kind="generate", min_tokens=1, max_tokens=context, chunk=chunk, stop_tokens=stop_tokens(checkpoint),
        chat_template=checkpoint.chat_template, special_tokens=checkpoint.special_tokens,
    )  # fmt: skip

    def inputs(tokens: int) -> tuple[Any, ...]:
        cached = tokens * context // chunk  # of any length, as the tokens are
        kv, d = built.parts.kv_heads, built.parts.head_size
        keys = [torch.zeros(kv, d, cached) for _ in generator.backbone.layers]
        values = [torch.zeros(kv, cached, d) for _ in generator.backbone.layers]
        rows = torch.zeros(1, tokens, dtype=torch.int64)
        return torch.zeros(manifest.parameters), rows, torch.zeros(1, dtype=torch.int64), keys, values

    # Traced at two tokens and more; one at a time they are read nevertheless.
    lengths, constants = (2, chunk), {"manifest": described.to_json(), "frozen": frozen}
    return write_program(
        folder / GENERATE_FILE, generator, inputs, lengths, len(generator.backbone.layers), backend, constants
    )


def stop_tokens(checkpoint: Checkpoint) -> tuple[int, ...]:
    """What ends a text, as the checkpoint's generation config, config and tokenizer have it."""
    found: set[int] = set()
    for source in (checkpoint.model.generation_config, checkpoint.model.config, checkpoint.tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return tuple(sorted(found))


def reach(config: Any) -> int:
    """The longest text of a transformers config.

    Raises:
        UserError: for an encoder.
    """
    if not FAMILIES[config.model_type].causal:
        raise UserError(f"a {config.model_type} reads texts whole and cannot continue one; leave --generate out")
    return int(config.max_position_embeddings)
