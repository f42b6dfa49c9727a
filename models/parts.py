"""A model's modules by their roles, and what its settings say of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from prge.manifest import AnswerAt
from prge.models.families import UnsupportedModel
from prge.models.likeness import family_of

# The name of the head that `build.add_label_head` gives a plain encoder.
LABEL_HEAD = "label_head"


class Kind(NamedTuple):
    """A kind of attention layer: layers of one kind share their rotary tables and masks.

    Attributes:
        rotary: name of the rotary tables; None without rotary positions.
        window: a token sees those that are less than so far away; None for all.
    """

    rotary: str | None
    window: int | None


def answer_at(config: Any, headless: bool) -> AnswerAt:
    """Where a model predicts a label's word: its last token, its mask token, or, without a head, its first token."""
    if family_of(config).causal:
        return "last"
    return "first" if headless else "mask"


class Parts:
    """A model's modules by their roles.

    Attributes:
        model, config: of transformers.
        family: where its type keeps its parts.
        attention_norm: as in `Family`, of this model.
        path: the full name of the list of layers.
        layers: the layers.
        embedding: the table of the tokens' embeddings.
        head: the linear that predicts tokens; None for a plain encoder that was given no label head yet.
        norms: what stands between the last layer and the head, in order.
        heads, kv_heads: heads of queries, and of keys and values.
        head_size: numbers in a head.
        embedding_scale: multiplies the embeddings, as in Gemma and Granite.
        logit_scale: multiplies the logits, as in Granite.
        final_cap: bounds the logits, as in Gemma 2; None for no bound.
        kinds: the kind of each layer's attention.
    """

    def __init__(self, model: Any):
        """Find the parts. GPT-2's transposed linears become ``nn.Linear``; nothing else in ``model`` changes.

        Raises:
            UnsupportedModel: as `family_of`; or the model has a trait that no family covers.
        """
        config = model.config
        family = family_of(config)
        _refuse_traits(config)
        self.model, self.config, self.family = model, config, family
        # OPT 350M has its norms behind the attention and the feed-forward module.
        self.attention_norm = family.attention_norm if getattr(config, "do_layer_norm_before", True) else None
        for name, module in list(model.named_modules()):
            if isinstance(module, Conv1D):
                model.set_submodule(name, _linear(module))
        self.path = self._path(family.layers)
        self.layers: nn.ModuleList = model.get_submodule(self.path)
        self.embedding: nn.Embedding = model.get_submodule(self._path(family.embedding))
        bare = model.base_model is model
        self.head: Any = getattr(model, LABEL_HEAD, None) if bare else model.get_submodule(family.head)
        inside = f"{model.base_model_prefix}."
        norms = [name for name in family.norms if not bare or name.startswith(inside)]
        found = [(name, nn.GELU() if name == "gelu" else self.optional(name)) for name in norms]
        self.norms = [m for _, m in found if m is not None]
        self._behind = [m for name, m in found if m is not None and not name.startswith(inside)]
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.embedding_scale = float(
            getattr(self.embedding, "scalar_embed_scale", None) or getattr(config, "embedding_multiplier", None) or 1.0
        )
        self.logit_scale = float(
            getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        )
        self.final_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.kinds = self._kinds()

    def _path(self, path: str) -> str:
        """A family's name as this model has it: a model without its head has the names without the prefix."""
        bare = self.model.base_model is self.model
        return path.removeprefix(self.model.base_model_prefix + ".") if bare else path

    def optional(self, path: str | None) -> Any:
        """The module of a family's name; None where the model has none."""
        try:
            return path and self.model.get_submodule(self._path(path))
        except AttributeError:
            return None

    def attention(self, layer: int) -> Any:
        """The attention module of the layer with this index."""
        return self.layers[layer].get_submodule(self.family.attention)

    def scaling(self, layer: int) -> float:
        """What multiplies the scores of the attention of this layer."""
        return float(getattr(self.attention(layer), "scaling", self.head_size**-0.5))

    def _kinds(self) -> list[Kind]:
        types = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        if window and not self.family.causal:
            window += 1  # of an encoder it is the greatest distance
        if not types:
            types = ["sliding_attention" if window else "full_attention"] * len(self.layers)
        if odd := set(types) - {"sliding_attention", "full_attention"}:
            raise UnsupportedModel(f"layers of type {', '.join(sorted(odd))} are not supported")
        rotary = self.optional(self.family.rotary)
        several = hasattr(rotary, "layer_types")
        # Some layers of SmolLM3 know nothing of positions.
        named = [rotary is not None and getattr(self.attention(i), "use_rope", True) for i in range(len(types))]
        return [
            Kind((t if several else "all") if turns else None, window if t == "sliding_attention" else None)
            for t, turns in zip(types, named, strict=True)
        ]

    def check_length(self, tokens: int) -> None:
        """Refuse rows of more tokens than the model has positions for.

        Raises:
            UnsupportedModel: there are fewer learned positions; or the rotary tables of such rows differ from those of
                shorter ones, so that no table serves both.
        """
        table = self._positions()
        if table is not None and tokens > len(table):
            raise UnsupportedModel(f"the model has {len(table)} positions, which is less than {tokens} tokens")
        given = getattr(self.config, "rope_parameters", None) or {}
        limit = given.get("original_max_position_embeddings") or self.config.max_position_embeddings
        if given.get("rope_type") in ("dynamic", "longrope") and tokens > limit:
            raise UnsupportedModel(f"rows beyond {limit} tokens have other rotary positions than shorter ones")

    def rotary_tables(self, name: str, positions: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tables of that name, and how the model turns what they multiply.

        A model's own function tells the latter. Most take the halves (a, b) to (-b, a), and some do so with neighbours;
        then a number of the table is for two of these.

        Returns:
            cos and sin, each f32[positions, rotated part of the head], and the turn, f32[rotated, rotated]: the sum of
            ``cos * x`` and ``sin * (turn x)`` is x behind the rotation.
        """
        rotary, places = self.optional(self.family.rotary), torch.arange(positions).unsqueeze(0)
        cos, sin = rotary(torch.zeros(1), places, *([] if name == "all" else [name]))
        apply: Any = vars(sys.modules[type(self.attention(0)).__module__]).get("apply_rotary_pos_emb")
        width = cos.shape[2]
        unit, whole = torch.eye(width).reshape(1, 1, width, width), torch.ones(1, 1, positions, width)
        try:
            turn = apply(unit, unit, torch.zeros(1, width, width), torch.ones(1, width, width))[0][0, 0].T
            cos, sin = (apply(whole, whole, cos * c, sin * s)[0][0, 0] for c, s in ((1, 0), (0, 1)))
        except (TypeError, ValueError, RuntimeError, LookupError):  # another form of function: it is as most are
            half = torch.eye(width // 2)
            return cos[0], sin[0], torch.cat((F.pad(-half, (width // 2, 0)), F.pad(half, (0, width // 2))))
        return cos, sin / turn.sum(1), turn

    def learned_positions(self, count: int) -> Tensor | None:
        """f32[count, H], what is added to the embeddings at the first ``count`` positions; None for nothing."""
        table = self._positions()
        if table is None:
            return None
        types = self.optional(self.family.types)
        return table[:count].float() + (0 if types is None else types.weight.detach()[0].float())

    def _positions(self) -> Tensor | None:
        """The learned positions, [positions, H] as they are stored; None where there are none."""
        table = self.optional(self.family.positions)
        if table is None:
            return None
        # The first rows are no positions: two of OPT's, and those up to the padding's of RoBERTa's.
        first = getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        rows: Tensor = table.weight.detach()[first:]
        return rows

    def logits(self, tokens: Tensor, mask: Tensor, at: tuple[Tensor, ...], words: Sequence[int] | None) -> Tensor:
        """The logits of transformers' own model at some positions, f32[n, V].

        Args:
            tokens: i64[R, T].
            mask: i64[R, T], 1 at tokens and 0 at padding.
            at: rows i64[n] and positions i64[n].
            words: the tokens to give logits of; None for all V.
        """
        cache = {"use_cache": False} if self.family.causal else {}
        out = self.model.base_model(tokens, attention_mask=mask, **cache).last_hidden_state[at]
        out = nn.Sequential(*self._behind)(out)
        head = self.head
        if words is None:
            logits = head(out)
        else:
            bias = None if head.bias is None else head.bias[list(words)]
            logits = F.linear(out, head.weight[list(words)].float(), bias)
        logits = logits * self.logit_scale
        return logits if self.final_cap is None else self.final_cap * torch.tanh(logits / self.final_cap)

    def linears(self) -> Iterator[tuple[int, str, nn.Linear]]:
        """All linears of the layers: (layer's index, name within the layer, module)."""
        for i, layer in enumerate(self.layers):
            yield from ((i, name, m) for name, m in layer.named_modules() if isinstance(m, nn.Linear))

    @property
    def grouped(self) -> bool:
        """Whether several queries share a key."""
        return self.kv_heads < self.heads

    def makes_keys(self, name: str) -> bool:
        """Whether the linear of this name within its layer makes keys or values."""
        own = self.family.queries_keys_values
        return name in (f"{self.family.attention}.{x}" for x in (own if len(own) == 1 else own[1:]))

    def fused_rows(self, name: str, linear: nn.Linear) -> list[Tensor] | None:
        """For each part of a fused linear, named within its layer, the outputs that make it; None for other linears."""
        rows = torch.arange(linear.out_features)
        if self.family.gated and name == self.family.gated[0]:
            return list(rows.chunk(2))
        if self.family.queries_keys_values != (name.removeprefix(self.family.attention + "."),):
            return None
        if self.family.by_head:
            return [part.reshape(-1) for part in rows.reshape(self.heads, 3, -1).unbind(1)]
        return list(rows.split([n * self.head_size for n in (self.heads, self.kv_heads, self.kv_heads)]))


def _refuse_traits(config: Any) -> None:
    """Refuse traits that change the computation and that no family covers.

    Raises:
        UnsupportedModel: naming the trait.
    """
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModel("decoders with bidirectional attention are not supported")
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedModel("encoders used as decoders, or with cross-attention, are not supported")
    widths = {getattr(config, name, config.hidden_size) for name in ("word_embed_proj_dim", "embedding_size")}
    if widths != {config.hidden_size}:
        raise UnsupportedModel("embeddings of another width than the layers are not supported")


def _linear(conv: Conv1D) -> nn.Linear:
    """The linear that computes what GPT-2's module computes."""
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().T.contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    return linear
