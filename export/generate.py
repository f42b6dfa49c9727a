"""The second program, which continues text with the parameters that the step has trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from prge.errors import UserError
from prge.export.lower import Backend
from prge.export.prompts import stop_tokens
from prge.export.quantize import quantize
from prge.export.report import Written
from prge.export.write import write_program
from prge.manifest import GENERATE_FILE, Manifest, Quantization
from prge.models.build import BuiltStep
from prge.models.checkpoints import Checkpoint
from prge.models.generation import Generator
from prge.models.likeness import family_of

# Most tokens of one execution. Longer prompts are read in several, which bounds the memory for scores.
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
    """Write ``generate.pte``, with the layers of a step that has been written already.

    Args:
        folder: where to write it.
        built: the step; it is consumed.
        manifest: the step's.
        frozen: the step's frozen factors, flat.
        context: most tokens of a text, prompt included; at most as many as ``built`` was made for.

    Raises:
        OSError: it cannot be written.
    """
    quantization: Quantization = manifest.quantization
    generator = Generator(built, share_table=quantization == "f32")
    head = built.parts.head
    if not any(linear is head for linear in built.base_linears):  # a step with label words left the head as it was
        quantize(generator, [head], quantization)
    chunk = min(_CHUNK, context)
    described = dataclasses.replace(
        manifest, kind="generate", min_tokens=1, max_tokens=context, chunk=chunk, stop_tokens=stop_tokens(checkpoint),
        chat_template=checkpoint.chat_template, special_tokens=checkpoint.special_tokens,
    )  # fmt: skip

    def inputs(tokens: int) -> tuple[Any, ...]:
        cached = tokens * context // chunk  # the cache's length is dynamic too
        kv, d = built.parts.kv_heads, built.parts.head_size
        keys = [torch.zeros(kv, d, cached) for _ in generator.backbone.layers]
        values = [torch.zeros(kv, cached, d) for _ in generator.backbone.layers]
        rows = torch.zeros(1, tokens, dtype=torch.int64)
        return torch.zeros(manifest.parameters), rows, torch.zeros(1, dtype=torch.int64), keys, values

    # Traced for two tokens or more, as torch.export treats 1 apart; the program reads single tokens nevertheless.
    lengths, constants = (2, chunk), {"manifest": described.to_json(), "frozen": frozen}
    return write_program(
        folder / GENERATE_FILE, generator, inputs, lengths, range(len(generator.backbone.layers)), backend, constants
    )


def reach(config: Any) -> int:
    """Most tokens of a text that a model can read, by its transformers config.

    Raises:
        UserError: the model is an encoder, which cannot continue a text.
    """
    if not family_of(config).causal:
        raise UserError(f"a {config.model_type} reads texts whole and cannot continue one; leave --generate out")
    return int(config.max_position_embeddings)
