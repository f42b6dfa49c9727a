"""What the layers of a model read beside the hidden states, and how they get it.

The layers are transformers' own, with the attention and the adapted linears replaced by prge's. Such a layer gives its
modules hidden states and nothing else. So `run_layers` sets a `Context` for as long as the layers run, and prge's
modules read it with `context()`. Nothing of it stays on the modules afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from prge.manifest import AdaptedModule
from prge.models.parts import Kind


class Tables(NamedTuple):
    """What all attention layers of one kind share.

    Attributes:
        rotary: cos, sin, key cos, key sin, each f32[1 or R, T, 1, head]; None without rotary positions.
        mask: f32, added to the scores; broadcasts to [R * kv heads, queries per key * T, keys].
        own: where some queries see other keys in every row: which ones they are, f32[R * kv heads, queries per key * T,
            1] with 1 and 0, and what is added to their scores too, f32[R * kv heads, 1, keys]. So the mask need not be
            as large as the scores. None where the mask says all.
    """

    rotary: tuple[Tensor, ...] | None
    mask: Tensor
    own: tuple[Tensor, Tensor] | None = None


class Cores(Protocol):
    """How adapted linears apply their trainable cores: each estimator has its own way."""

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """Apply the core of one adapted linear to all rows.

        Args:
            low: f32[R, T, rank], the linear's input behind the frozen A.
            module: says where the core is in the parameters, and its shape.
            columns: i64[n], the core's columns to use; None for all. Only a core outside a subspace is used in parts.

        Returns:
            f32[R, T, columns].
        """
        ...


class Cache(Protocol):
    """Keys and values of the tokens that were read before."""

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put the new keys and values of a layer behind the cached ones.

        Args:
            layer: the layer's index.
            keys: f32[R * kv heads, head, T].
            values: f32[R * kv heads, T, head].

        Returns:
            all keys f32[R * kv heads, head, cached + T] and values f32[R * kv heads, cached + T, head].
        """
        ...


class Record:
    """What a first pass over all positions leaves for a second one over the M targets alone, which stand first.

    Attributes:
        targets: M.
        outputs: what each frozen linear gave at the targets, f32[R, M, out].
        made: each layer's keys and values of all positions, as in `Cache.join`.
    """

    def __init__(self, targets: int):
        self.targets = targets
        self.outputs: dict[object, Tensor] = {}
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values of the first pass, of all positions."""
        return self.made.setdefault(layer, (keys, values))


@dataclass(frozen=True)
class Context:
    """What the layers read while they run.

    Attributes:
        rows: R, the rows of hidden states.
        tables: masks and rotary tables, by the kind of a layer's attention.
        cores: how adapted linears apply their cores; None where the layers have none.
        cache: keys and values of earlier tokens; None where there are none.
        record: what a first pass leaves for a second one; None where there is one pass.
    """

    rows: int
    tables: Mapping[Kind, Tables]
    cores: Cores | None
    cache: Cache | None
    record: Record | None = None


_current: ContextVar[Context] = ContextVar("context")


def context() -> Context:
    """The context of the layers that are running; a LookupError where none are."""
    return _current.get()


def recording() -> Record | None:
    """The record of the layers that are running; None where they keep none, and outside of layers."""
    given = _current.get(None)
    return None if given is None else given.record


@contextmanager
def running(given: Context) -> Iterator[None]:
    """Set the context of the layers that run in this block."""
    before = _current.set(given)
    try:
        yield
    finally:
        _current.reset(before)


def run_layers(
    layers: Iterable[nn.Module],
    hidden: Tensor,
    tables: Mapping[Kind, Tables],
    cores: Cores | None = None,
    cache: Cache | None = None,
    record: Record | None = None,
) -> Tensor:
    """Run hidden states f32[R, T, H] through layers, one after the other; gives f32[R, T, H]."""
    with running(Context(hidden.shape[0], tables, cores, cache, record)):
        for layer in layers:
            hidden = layer(hidden)
    return hidden
