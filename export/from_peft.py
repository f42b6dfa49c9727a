"""A program that goes on from a PEFT adapter: its frozen factors are made of the adapter's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prge.errors import UserError
from prge.files.checked import save_checked
from prge.lora import Lora, added_rows, core_between
from prge.manifest import INITIAL_FILE, Manifest
from prge.models.adapter import AdaptedLinear, AdapterConfig, selected
from prge.models.parts import Parts
from prge.models.stored import read
from prge.models.subspace import Factors, as_long_as, orthonormal_span


def adapter_config(lora: Lora) -> AdapterConfig:
    """What trains: the adapter's modules, at its rank and scale; and the head, where the adapter has it."""
    alpha, head = lora.scale * lora.rank, True if lora.heads else None
    return AdapterConfig(lora.rank, alpha, layers_of(lora), slice(None), "peft", head=head)


def layers_of(lora: Lora) -> tuple[str, ...]:
    """The names of the adapter's modules without the head."""
    heads = lora.heads
    return tuple(name for name in lora.pairs if name not in heads)


def refuse_other_rows(lora: Lora, manifest: Manifest) -> None:
    """Raise a UserError where the adapter adds to rows of the head that are not the label words'."""
    head, heads = manifest.adapter.head, lora.heads
    if heads and not (head and heads == {head.name} and added_rows(lora, head.name, manifest.words) is not None):
        raise UserError(
            f"{lora.path}: it trains rows of {', '.join(sorted(heads))} that are not those of these label words; give "
            "the --label options that it was trained with"
        )


def lora_factors(model: Any, lora: Lora) -> dict[str, Factors]:
    """The frozen factors by full name: the adapter's A [r, in], and D [out, r] whose columns span those of its B.

    D's columns are orthogonal, and as long as W asks for (`as_long_as`).

    Raises:
        ValueError: a pair belongs to no linear of a layer, or does not fit it.
    """
    every = selected(Parts(model), AdapterConfig(modules=("*",), layers=slice(None)))
    linears = {name: linear for name, (_, _, linear) in every.items()}
    factors = {}
    for name in layers_of(lora):
        a, b = lora.pairs[name]
        if name not in linears or linears[name].weight.shape != (b.shape[0], a.shape[1]):
            raise ValueError(f"{lora.path}: {name} ({b.shape[0]} x {a.shape[1]}) is no linear of a decoder layer")
        factors[name] = as_long_as(read(linears[name].weight), Factors(a, orthonormal_span(b)))
    return factors


def save_initial(folder: Path, manifest: Manifest, adapters: Sequence[AdaptedLinear], lora: Lora) -> None:
    """Write the state f32[state_size] with which the program computes what the adapter does.

    Raises:
        OSError: it cannot be written.
    """
    state = torch.zeros(manifest.state_size)
    scale = manifest.adapter.alpha / manifest.adapter.rank
    for layer in adapters:
        module = layer.module
        assert layer.up is not None
        core = core_between(lora.pairs[module.name][1] * (lora.scale / scale), layer.up)
        state[module.offset : module.offset + module.size] = core.T.reshape(-1)
    head = manifest.adapter.head
    if head and head.name in lora.pairs:
        added = added_rows(lora, head.name, manifest.words)
        assert added is not None
        state[head.offset : head.offset + head.size] = (added / head.gain).T.reshape(-1)
    save_checked(folder / INITIAL_FILE, {"state": state}, {**manifest.identity, "steps": "0"})
