"""LoRA-FA: which linear layers train, their frozen factors, and where each sits in the state.

The state is one flat vector. For an adapted linear ``y = W x`` it holds, at the layer's
offset, the trainable factor:

* ``subspace=None`` (LoRA-FA, arXiv 2308.03303): ``y += s * B (A x)`` with A [r, in] frozen
  and random, B [out, r] trained and stored transposed, [r, out].
* ``subspace="svd"`` (as LoRA-XS, arXiv 2405.17604): with ``W ~ U S V^T`` (top r), ``A = V^T``,
  ``B = U S R`` and only the core R [r, r] trained, stored transposed.
* ``subspace="fisher"``: A [r, in] and ``B = D R``, R [k, r], where A spans what the layer's inputs mostly
  are and D [out, k] which of its outputs move the loss (`principal_factors`).
* ``subspace="peft"``: the same between a PEFT adapter's own A and its B's columns.

All are LoRA pairs. The first three start at zero, so the initial state is the zero vector; the last where
the PEFT adapter is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.subspace import Factors, top_singular

Subspace = Literal["fisher", "svd", "peft"]


@dataclass(frozen=True)
class AdapterConfig:
    """What trains.

    Attributes:
        rank: r, at least 1.
        alpha: LoRA's alpha; the pair is scaled by ``alpha / rank``.
        modules: names of linear modules as they end, ``("q_proj", "v_proj")``, or shell
            patterns of full names, ``("*.mlp.*_proj",)``.
        layers: which decoder layers to adapt, ``slice(20, None)`` for those from the 21st on;
            None for the upper half, whose directional derivatives carry the most signal.
        subspace: where the core trains; None for LoRA-FA's B.
        directions: k, of the outputs (``subspace="fisher"``).
        seed: of the random A (``subspace=None``).
    """

    rank: int = 8
    alpha: float = 8.0
    modules: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    layers: slice | None = None
    subspace: Subspace | None = "svd"
    directions: int = 4
    seed: int = 0

    @property
    def columns(self) -> int:
        """Of a core in a subspace."""
        return self.directions if self.subspace == "fisher" else self.rank

    def selects(self, name: str, depth: int) -> bool:
        """Whether the linear ``layers.3.mlp.up_proj`` of a decoder of ``depth`` layers trains."""
        layer = int(name.split(".")[1])
        named = any(name.split(".")[-1] == m or fnmatch.fnmatch(name, m) for m in self.modules)
        return named and layer in range(depth)[self.layers or slice(depth // 2, None)]


class Copies(Protocol):
    """How the copies of a step differ; shared by all adapted layers, set anew by each trace.

    Plain objects on purpose: torch.export takes a tensor attribute of a module for a leak.
    """

    def core(self, low: Tensor, layer: AdaptedLinear) -> Tensor:
        """The layer's trainable core in every row: f32[R, T, rank] -> f32[R, T, core columns]."""
        ...


class AdaptedLinear(nn.Module):
    """One frozen linear for all copies, and beside it the low-rank pair, whose core `Copies` applies.

    The paper's dual-forwarding LoRA.
    """

    def __init__(
        self, base: nn.Linear, name: str, config: AdapterConfig, offset: int, copies: Copies, factors: Factors | None
    ):
        super().__init__()
        r = config.rank
        if r > min(base.in_features, base.out_features):
            raise ValueError(
                f"rank {r} is larger than the smaller side of {name} "
                f"({base.out_features} x {base.in_features}); choose a smaller rank"
            )
        self.base = base
        self.name, self.offset, self.copies = name, offset, copies
        self.scale = config.alpha / r
        weight = base.weight.detach().float()
        if factors:
            down, up = factors.inputs, factors.outputs
        elif config.subspace:
            u, s, v = top_singular(weight, r)
            down, up = v.T, u * s
        else:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + offset)
            down = torch.randn(r, base.in_features, generator=generator) / base.in_features**0.5
            up = None
        if config.subspace != "peft":  # rounded, so that float16 is enough to give them to the driver
            down, up = down.half().float(), None if up is None else up.half().float()
        self.core = (r, base.out_features if up is None else up.shape[1])
        self.down = nn.Buffer(down.contiguous())  # A, [r, in]
        self.up = nn.Buffer(up.contiguous()) if up is not None else None  # U S, [out, r], or D, [out, k]
        # The scale is folded in, so that the graph has one multiplication less per layer.
        self.scaled_down = nn.Buffer((down * self.scale).contiguous())

    @property
    def size(self) -> int:
        """Numbers of the state that belong to this layer."""
        return self.core[0] * self.core[1]

    def forward(self, x: Tensor) -> Tensor:
        """f32[R, T, in] -> f32[R, T, out]."""
        low = self.copies.core(F.linear(x, self.scaled_down), self)
        if self.up is not None:
            low = F.linear(low, self.up)
        return self.base(x) + low


def selected(decoder: Any, config: AdapterConfig) -> dict[str, nn.Linear]:
    """The linears of ``decoder.layers`` that train, by name, in state order.

    Raises:
        ValueError: when nothing is selected, naming the linear modules there are.
    """
    depth = len(decoder.layers)
    linears = {f"layers.{n}": m for n, m in decoder.layers.named_modules() if isinstance(m, nn.Linear)}
    chosen = {name: linear for name, linear in linears.items() if config.selects(name, depth)}
    if not chosen:
        names = dict.fromkeys(n.split(".")[-1] for n in linears)
        raise ValueError(
            f"no linear module matches {', '.join(config.modules)} in the layers chosen; "
            f"the model has {', '.join(names)} in {depth} layers"
        )
    return chosen


def adapt(
    decoder: Any, prefix: str, config: AdapterConfig, copies: Copies, factors: Mapping[str, Factors]
) -> list[AdaptedLinear]:
    """Replace the selected linears in place; returns them in state order.

    Args:
        prefix: completes the names, as the checkpoint and PEFT have them.
        factors: by the decoder's name (``subspace="fisher"`` and ``"peft"``).
    """
    adapted: list[AdaptedLinear] = []
    offset = 0
    for name, linear in selected(decoder, config).items():
        layer = AdaptedLinear(linear, prefix + name, config, offset, copies, factors.get(name))
        decoder.set_submodule(name, layer)
        adapted.append(layer)
        offset += layer.size
    return adapted
