"""LoRA with a frozen down-projection: which linears train, their frozen factors, and their place in the state.

The state begins with the parameters: one flat vector of the trainable cores of all adapted linears. For a linear
``y = W x`` with s = alpha / r the core is, by ``subspace``,

* None (LoRA-FA, arXiv 2308.03303): B in ``y += s * B (A x)``. A [r, in] is frozen and random. B [out, r] is stored
  transposed, [r, out].
* ``"svd"`` (as in LoRA-XS, arXiv 2405.17604): R in ``B = U S R``, where ``W ~ U S V^T`` (the top r) and ``A = V^T``.
  R [r, r] is stored transposed.
* ``"fisher"``: R in ``B = D R``. A [r, in] spans what the linear's inputs mostly are, and D [out, k] the outputs that
  move the loss (`principal_factors`). R [k, r] is stored transposed.
* ``"peft"``: the same with the A of a PEFT adapter, and D [out, r] that spans the columns of its B.

All of them are LoRA pairs. The first three start as an adapter that changes nothing, so their first state is zeros.
The last starts where the PEFT adapter is.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prge.manifest import AdaptedModule, TrainedHead
from prge.models.context import context
from prge.models.engine import Split, factor, replacement
from prge.models.parts import Parts
from prge.models.stored import read
from prge.models.subspace import top_singular

Subspace = Literal["fisher", "svd", "peft"]

# The frozen factors of a linear: A f32[r, in], and what stands behind the core, f32[out, core columns], or None.
Frozen = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class AdapterConfig:
    """What trains.

    Attributes:
        rank: r, at least 1.
        alpha: LoRA's alpha, above 0; the pair is scaled by ``alpha / rank``.
        modules: ends of the linears' names, ``("q_proj", "mlp.c_proj")``, or shell patterns of their full names,
            ``("*.mlp.*_proj",)``; None for all linears but those that make keys or values.
        layers: which decoder layers to adapt, ``slice(20, None)`` for the 21st and all above it; None for the upper
            half, where the loss's slopes stand out most from the noise.
        subspace: where the core trains; None for the whole B of LoRA-FA.
        directions: k, directions of a linear's outputs (``subspace="fisher"``), at least 1.
        seed: of the random A (``subspace=None``).
        head: whether the label words' rows of the head train too; None for yes where that pays (`trained_head`).
    """

    rank: int = 8
    alpha: float = 8.0
    modules: tuple[str, ...] | None = None
    layers: slice | None = None
    subspace: Subspace | None = "svd"
    directions: int = 4
    seed: int = 0
    head: bool | None = None

    def names(self, name: str) -> bool:
        """Whether ``modules`` name the linear of this full name, as ``model.layers.3.mlp.up_proj``."""
        return any(("." + name).endswith("." + m) or fnmatch.fnmatch(name, m) for m in self.modules or ())


class AdaptedLinear(nn.Module):
    """A frozen linear that all copies share, and beside it the LoRA pair.

    This is the paper's dual-forwarding LoRA. How the core between the two frozen factors is applied, and so what the
    copies differ in, is up to the `Cores` of the context. A fused linear has one pair, as in PEFT, and gives its parts
    one by one.

    Attributes:
        module: its name, sizes, and place in the state.
        base: the frozen linear.
        down: A, f32[rank, in].
        up: the frozen factor behind the core, U S or D, f32[out, core columns]; None for LoRA-FA.
    """

    def __init__(
        self,
        base: nn.Linear,
        module: AdaptedModule,
        config: AdapterConfig,
        factors: Frozen | None,
        rows: Sequence[Tensor] | None,
    ):
        """Adapt the linear ``base``.

        Args:
            factors: the frozen factors; None to make those of ``subspace`` None or ``"svd"``.
            rows: of a fused linear, which of its outputs make each part; None for any other.
        """
        super().__init__()
        self.base: nn.Linear | Split = Split(base, rows) if rows else base
        self.rows = rows or [torch.arange(base.out_features)]
        self.module = module
        down, up = factors or _own_factors(base.weight, module, config)
        if config.subspace != "peft":  # rounded, so that the program can hold them in float16
            down, up = down.half().float(), None if up is None else up.half().float()
        self.down = nn.Buffer(down.contiguous())
        self.up = nn.Buffer(up.contiguous()) if up is not None else None
        ups = [] if up is None else [up[part] for part in self.rows] if rows else [up]
        self.ups, self.ups_back = _constants(ups), _constants([part.T for part in ups])
        # A with the scale in it, so that the graph has one multiplication less per layer.
        self.scaled_down = nn.Buffer((down * (config.alpha / config.rank)).contiguous())
        self.scaled_down_back = nn.Buffer(self.scaled_down.T.contiguous())

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """f32[R, T, in] -> f32[R, T, out], or [R * T, in] -> [R * T, out] as in OPT's layers.

        A fused linear gives a tuple of its parts.
        """
        given = context()
        assert given.cores is not None, "the layers run without cores"
        low, flat = factor(x, self.scaled_down, self.scaled_down_back), x.dim() == 2
        if flat:
            low = low.reshape(given.rows, -1, self.module.core[0])
        if self.up is None:
            parts = self.rows if len(self.rows) > 1 else [None]
            pairs = [given.cores.apply(low, self.module, part) for part in parts]
        else:
            core = given.cores.apply(low, self.module)
            pairs = [factor(core, up, back) for up, back in zip(self.ups, self.ups_back, strict=True)]
        whole = self.base(x)
        if isinstance(whole, tuple):
            return tuple(y + pair for y, pair in zip(whole, pairs, strict=True))
        return whole + (pairs[0].reshape(-1, whole.shape[1]) if flat else pairs[0])


def _constants(tensors: Sequence[Tensor]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(tensor.contiguous(), requires_grad=False) for tensor in tensors)


def _own_factors(weight: Tensor, module: AdaptedModule, config: AdapterConfig) -> Frozen:
    """The factors that need nothing but the weight W [out, in]: of the svd subspace, or LoRA-FA's random A."""
    if config.subspace:
        u, s, v = top_singular(read(weight), config.rank)
        return v.T, u * s
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + module.offset)
    inputs = module.in_features
    return torch.randn(config.rank, inputs, generator=generator) / inputs**0.5, None


def selected(parts: Parts, config: AdapterConfig) -> dict[str, tuple[int, str, nn.Linear]]:
    """The linears that train, in state order: by full name, (layer, name within the layer, module).

    Raises:
        ValueError: nothing is selected; says which layers and linears there are.
    """
    count = len(parts.layers)
    layers = range(count)[config.layers or slice(count // 2, None)]
    if not layers:
        asked = config.layers or slice(None)
        bounds = ":".join("" if end is None else str(end) for end in (asked.start, asked.stop))
        raise ValueError(f"the model has {count} layers, 0 to {count - 1}; layers {bounds} select none of them")
    found, names = {}, dict[str, None]()
    for layer, name, linear in parts.linears():
        names[name.split(".")[-1]] = None
        full = f"{parts.path}.{layer}.{name}"
        if layer in layers and (config.names(full) if config.modules else not parts.makes_keys(name)):
            found[full] = layer, name, linear
    if not found:
        raise ValueError(
            f"no linear of the chosen layers is named {' or '.join(config.modules or ())}; "
            f"the model has {', '.join(names)}"
        )
    return found


def layout(parts: Parts, config: AdapterConfig) -> tuple[AdaptedModule, ...]:
    """What trains and where it is in the state, from the model's sizes alone; changes nothing.

    Raises:
        ValueError: as `selected`; or rank or directions do not fit a linear.
    """
    modules, offset = list[AdaptedModule](), 0
    for full, (layer, _, linear) in selected(parts, config).items():
        inputs, outputs = linear.in_features, linear.out_features
        if config.rank > min(inputs, outputs):
            raise ValueError(
                f"rank {config.rank} is larger than the smaller side of {full} ({outputs} x {inputs}); "
                "choose a smaller rank"
            )
        if config.subspace == "fisher" and config.directions > outputs:
            raise ValueError(
                f"{config.directions} directions are more than the {outputs} outputs of {full}; choose fewer directions"
            )
        columns = {None: outputs, "fisher": config.directions}.get(config.subspace, config.rank)
        modules.append(AdaptedModule(full, layer, inputs, outputs, offset, (config.rank, columns)))
        offset += modules[-1].size
    return tuple(modules)


# So many classes need no trained head: with two, six and seven of them it mostly learned less, with twenty more
# (docs/bench.md).
_HEAD_STAYS = 10
# How much larger steps the head takes than the cores. With 1, 4 and 16 an accuracy of 77 classes was 0.756, 0.794 and
# 0.752 (docs/bench.md).
_FASTER = 4


def trained_head(
    parts: Parts, config: AdapterConfig, words: Sequence[int] | None, estimates: bool, offset: int
) -> TrainedHead | None:
    """The head's part of the state; None where its rows stay as they are.

    Args:
        words: the label words' tokens; None for language modelling.
        estimates: whether the gradient is one. It would be far noisier for so many numbers.
        offset: how many numbers stand before it in the state.

    Raises:
        ValueError: the head is to train, and it cannot.
    """
    own = parts.model.base_model is not parts.model
    if words is None or estimates or not own:
        if config.head:
            raise ValueError(
                "--head trains the label words' rows of a model's head by an exact or a full gradient: leave it out"
            )
        return None
    if not (len(words) > _HEAD_STAYS if config.head is None else config.head):
        return None
    return TrainedHead(
        parts.family.head, parts.head.out_features, offset, (parts.head.in_features, len(words)), _gain(parts)
    )


def _gain(parts: Parts) -> float:
    """`_FASTER` over the head's inputs' root mean square, as a power of two; 1 where no weights are loaded.

    A norm stands before the head. Its results are its weights times numbers whose mean square is one.
    """
    norm = replacement(parts.norms[-1]) if parts.norms else None
    weight: Any = None if norm is None else norm.weight
    if weight is None or weight.is_meta:
        return 1.0
    size = float(read(weight).square().mean().sqrt()) * abs(parts.logit_scale)
    return 2.0 ** round(math.log2(_FASTER / size)) if size > 0 else 1.0


def adapt(parts: Parts, config: AdapterConfig, factors: Mapping[str, Frozen]) -> list[AdaptedLinear]:
    """Replace the selected linears in place; returns the new modules in state order.

    Args:
        factors: frozen factors by full name. ``subspace="fisher"`` and ``"peft"`` need them; for the others those that
            are missing are made from the weights.

    Raises:
        ValueError: as `layout`.
    """
    adapted = []
    linears = selected(parts, config)
    for module in layout(parts, config):
        layer, name, linear = linears[module.name]
        rows = parts.fused_rows(name, linear)
        adapted.append(AdaptedLinear(linear, module, config, factors.get(module.name), rows))
        parts.layers[layer].set_submodule(name, adapted[-1])
    return adapted
