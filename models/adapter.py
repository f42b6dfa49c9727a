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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.engine import Split
from prge.models.families import Parts
from prge.models.subspace import Factors, top_singular

Subspace = Literal["fisher", "svd", "peft"]


@dataclass(frozen=True)
class AdapterConfig:
    """What trains.

    Attributes:
        rank: r, at least 1.
        alpha: LoRA's alpha; the pair is scaled by ``alpha / rank``.
        modules: names of linear modules as they end, ``("q_proj", "mlp.c_proj")``, or shell
            patterns of full names, ``("*.mlp.*_proj",)``; None for all but those that make keys or values.
        layers: which decoder layers to adapt, ``slice(20, None)`` for those from the 21st on;
            None for the upper half, whose directional derivatives carry the most signal.
        subspace: where the core trains; None for LoRA-FA's B.
        directions: k, of the outputs (``subspace="fisher"``).
        seed: of the random A (``subspace=None``).
    """

    rank: int = 8
    alpha: float = 8.0
    modules: tuple[str, ...] | None = None
    layers: slice | None = None
    subspace: Subspace | None = "svd"
    directions: int = 4
    seed: int = 0

    @property
    def columns(self) -> int:
        """Of a core in a subspace."""
        return self.directions if self.subspace == "fisher" else self.rank

    def names(self, name: str) -> bool:
        """Whether ``modules`` name the linear ``model.layers.3.mlp.up_proj``."""
        return any(("." + name).endswith("." + m) or fnmatch.fnmatch(name, m) for m in self.modules or ())


class Copies(Protocol):
    """How the copies of a step differ; shared by all adapted layers, set anew by each trace.

    Plain objects on purpose: torch.export takes a tensor attribute of a module for a leak.

    Attributes:
        rows: R.
    """

    rows: int

    def core(self, low: Tensor, layer: AdaptedLinear, columns: Tensor | None = None) -> Tensor:
        """The layer's trainable core in every row: f32[R, T, rank] -> f32[R, T, core columns].

        ``columns`` are those to give, without a subspace; None for all.
        """
        ...


class AdaptedLinear(nn.Module):
    """One frozen linear for all copies, and beside it the low-rank pair, whose core `Copies` applies.

    The paper's dual-forwarding LoRA. A fused linear has one pair too, as PEFT would have it, and gives its
    parts one by one.

    Args:
        name: the checkpoint's.
        layer: the decoder layer's index.
        rows: of a fused linear, which rows make each part; else None.
    """

    def __init__(
        self, base: nn.Linear, name: str, layer: int, config: AdapterConfig, offset: int, copies: Copies,
        factors: Factors | None, rows: Sequence[Tensor] | None,
    ):  # fmt: skip
        super().__init__()
        r = config.rank
        if r > min(base.in_features, base.out_features):
            raise ValueError(
                f"rank {r} is larger than the smaller side of {name} "
                f"({base.out_features} x {base.in_features}); choose a smaller rank"
            )
        self.base: nn.Linear | Split = Split(base, rows) if rows else base
        self.rows = rows or [torch.arange(base.out_features)]
        self.name, self.layer, self.offset, self.copies = name, layer, offset, copies
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
        ups = [] if up is None else [up[part] for part in self.rows] if rows else [up]
        self.ups = nn.ParameterList(nn.Parameter(part.contiguous(), requires_grad=False) for part in ups)
        # The scale is folded in, so that the graph has one multiplication less per layer.
        self.scaled_down = nn.Buffer((down * self.scale).contiguous())

    @property
    def size(self) -> int:
        """Numbers of the state that belong to this layer."""
        return self.core[0] * self.core[1]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """f32[R, T, in] (or [R * T, in], as OPT's layers have it) -> f32[R, T, out]; of a fused linear each part."""
        low, flat = F.linear(x, self.scaled_down), x.dim() == 2
        if flat:
            low = low.reshape(self.copies.rows, -1, self.core[0])
        if self.up is None:
            pairs = [self.copies.core(low, self, part if len(self.rows) > 1 else None) for part in self.rows]
        else:
            core = self.copies.core(low, self)
            pairs = [F.linear(core, up) for up in self.ups]
        whole = self.base(x)
        if isinstance(whole, tuple):
            return tuple(y + pair for y, pair in zip(whole, pairs, strict=True))
        return whole + (pairs[0].reshape(-1, whole.shape[1]) if flat else pairs[0])


def selected(parts: Parts, config: AdapterConfig) -> dict[str, tuple[int, str, nn.Linear]]:
    """The linears that train, in state order: by the checkpoint's name, (layer, name within it, module).

    Raises:
        ValueError: when nothing is selected, naming the linear modules there are.
    """
    layers = range(len(parts.layers))
    chosen = layers[config.layers or slice(len(layers) // 2, None)]
    found, names = {}, dict[str, None]()
    for layer, name, linear in parts.linears():
        names[name.split(".")[-1]] = None
        full = f"{parts.path}.{layer}.{name}"
        if layer in chosen and (config.names(full) if config.modules else not parts.makes_keys(name)):
            found[full] = layer, name, linear
    if not found:
        raise ValueError(
            f"no linear module matches {', '.join(config.modules or ())} in the layers chosen; "
            f"the model has {', '.join(names)} in {len(layers)} layers"
        )
    return found


def adapt(parts: Parts, config: AdapterConfig, copies: Copies, factors: Mapping[str, Factors]) -> list[AdaptedLinear]:
    """Replace the selected linears in place; returns them in state order.

    Args:
        factors: by name (``subspace="fisher"`` and ``"peft"``).
    """
    adapted: list[AdaptedLinear] = []
    offset = 0
    for full, (layer, name, linear) in selected(parts, config).items():
        rows = parts.fused_rows(name, linear)
        module = AdaptedLinear(linear, full, layer, config, offset, copies, factors.get(full), rows)
        parts.layers[layer].set_submodule(name, module)
        adapted.append(module)
        offset += module.size
    return adapted
