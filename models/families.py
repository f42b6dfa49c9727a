"""Model families: where each keeps its parts. Adding one is adding a `Family` to FAMILIES."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from prge.manifest import AnswerAt


class UnsupportedModel(ValueError):
    """The checkpoint's architecture has no entry in FAMILIES, or a trait that its family does not cover."""


@dataclass(frozen=True)
class Family:
    """Where a model type keeps its parts: names as in the checkpoint, dotted paths where they are deeper.

    Attributes:
        layers, embedding, head: of the model.
        norms: between the last layer and the head, in order; ``"gelu"`` for one that is no module. Those that
            a model lacks are left out.
        rotary: makes the rotary tables; None without them.
        positions, types, embedding_norm: learned positions, token types (all are of the first) and the norm
            that are added to the embedding; None where there are none.
        attention: within a layer.
        queries_keys_values: linears within the attention; one name for a fused one.
        output: the linear that closes the attention, where it is within it.
        by_head: whether a fused linear's rows come head by head, (q, k, v) each; else all q, all k, all v.
        gate_up: a fused linear of a gated feed-forward module, within a layer: first gate, then up.
        transposed: whether linears are GPT-2's ``Conv1D``.
        causal: whether a token sees only those before it; encoders answer at the mask token, or without a
            masked-LM head at their first token.
    """

    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    norms: tuple[str, ...] = ("model.norm",)
    rotary: str | None = None
    positions: str | None = None
    types: str | None = None
    embedding_norm: str | None = None
    attention: str = "self_attn"
    queries_keys_values: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    output: str | None = "o_proj"
    by_head: bool = False
    gate_up: str | None = None
    transposed: bool = False
    causal: bool = True


_LLAMA = Family(rotary="model.rotary_emb")


def _bert(name: str) -> Family:
    return Family(
        layers=f"{name}.encoder.layer",
        embedding=f"{name}.embeddings.word_embeddings",
        head="cls.predictions.decoder",
        norms=("cls.predictions.transform",),
        positions=f"{name}.embeddings.position_embeddings",
        types=f"{name}.embeddings.token_type_embeddings",
        embedding_norm=f"{name}.embeddings.LayerNorm",
        attention="attention.self",
        queries_keys_values=("query", "key", "value"),
        output=None,
        causal=False,
    )


FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": replace(_LLAMA, queries_keys_values=("qkv_proj",), gate_up="mlp.gate_up_proj"),
    "opt": Family(
        layers="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        norms=("model.decoder.final_layer_norm",),
        positions="model.decoder.embed_positions",
        output="out_proj",
    ),
    "gpt2": Family(
        layers="transformer.h",
        embedding="transformer.wte",
        norms=("transformer.ln_f",),
        positions="transformer.wpe",
        attention="attn",
        queries_keys_values=("c_attn",),
        output="c_proj",
        transposed=True,
    ),
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        norms=("gpt_neox.final_layer_norm",),
        rotary="gpt_neox.rotary_emb",
        attention="attention",
        queries_keys_values=("query_key_value",),
        output="dense",
        by_head=True,
    ),
    "bert": _bert("bert"),
    "roberta": replace(_bert("roberta"), head="lm_head.decoder", norms=("lm_head.dense", "gelu", "lm_head.layer_norm")),
    "distilbert": Family(
        layers="distilbert.transformer.layer",
        embedding="distilbert.embeddings.word_embeddings",
        head="vocab_projector",
        norms=("vocab_transform", "activation", "vocab_layer_norm"),
        positions="distilbert.embeddings.position_embeddings",
        embedding_norm="distilbert.embeddings.LayerNorm",
        attention="attention",
        queries_keys_values=("q_lin", "k_lin", "v_lin"),
        output="out_lin",
        causal=False,
    ),
}

# The head that a plain encoder gets for a program (`build.add_label_head`).
LABEL_HEAD = "label_head"


class Kind(NamedTuple):
    """What a layer's attention shares with other layers': rotary tables by name, and a window in tokens, if any."""

    rotary: str | None
    window: int | None


def answer_at(model: Any) -> AnswerAt:
    """Of a model."""
    if FAMILIES[model.config.model_type].causal:
        return "last"
    return "first" if model.base_model is model else "mask"


class Parts:
    """A model's modules by their roles.

    Attributes:
        layers: the decoder's (or encoder's), with `path` as their name.
        embedding, head: the table and the linear; None for a plain encoder that got no label head yet.
        norms: what stands between the last layer and the head.
        heads, kv_heads, head_size: of the attention.
        kinds: of each layer.
    """

    def __init__(self, model: Any):
        """GPT-2's transposed linears become ``nn.Linear``; nothing else in ``model`` changes.

        Raises:
            UnsupportedModel: when the type is not in FAMILIES, or has a trait that no family covers.
        """
        config = model.config
        if config.model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise UnsupportedModel(f"models of type {config.model_type!r} are not supported; supported are {known}")
        _refuse_traits(config)
        self.model, self.config, self.family = model, config, FAMILIES[config.model_type]
        family = self.family
        for name, module in list(model.named_modules()):
            if isinstance(module, Conv1D):
                model.set_submodule(name, _linear(module))
        self.path = self._path(family.layers)
        self.layers: nn.ModuleList = model.get_submodule(self.path)
        self.embedding: nn.Embedding = model.get_submodule(self._path(family.embedding))
        bare = model.base_model is model
        self.head: Any = getattr(model, LABEL_HEAD, None) if bare else model.get_submodule(family.head)
        norms = () if bare else family.norms
        self.norms: list[Any] = [nn.GELU() if name == "gelu" else self.optional(name) for name in norms]
        self.norms = [m for m in self.norms if m is not None]
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.final_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.kinds = self._kinds()

    def _path(self, path: str) -> str:
        """A base model without its head has the same names less the prefix."""
        bare = self.model.base_model is self.model
        return path.removeprefix(self.model.base_model_prefix + ".") if bare else path

    def optional(self, path: str | None) -> Any:
        """The module at a family's path; None where the model has none."""
        try:
            return path and self.model.get_submodule(self._path(path))
        except AttributeError:
            return None

    def attention(self, layer: int) -> Any:
        return self.layers[layer].get_submodule(self.family.attention)

    def _kinds(self) -> list[Kind]:
        types = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        if not types:
            types = ["sliding_attention" if window else "full_attention"] * len(self.layers)
        if odd := set(types) - {"sliding_attention", "full_attention"}:
            raise UnsupportedModel(f"layers of type {', '.join(sorted(odd))} are not supported")
        rotary = self.optional(self.family.rotary)
        several = hasattr(rotary, "layer_types")
        name = None if rotary is None else "all"
        return [Kind(t if several else name, window if t == "sliding_attention" else None) for t in types]

    def rotary_tables(self, name: str, positions: int) -> tuple[Tensor, Tensor]:
        """(cos, sin) f32[positions, rotated part of the head].

        Raises:
            UnsupportedModel: when the tables of longer rows than so many would differ from those of shorter ones.
        """
        given = self.config.rope_parameters
        limit = given.get("original_max_position_embeddings") or self.config.max_position_embeddings
        if given.get("rope_type") in ("dynamic", "longrope") and positions > limit:
            raise UnsupportedModel(f"rows beyond {limit} tokens have other rotary positions than shorter ones")
        rotary, places = self.optional(self.family.rotary), torch.arange(positions).unsqueeze(0)
        cos, sin = rotary(torch.zeros(1), places, *([] if name == "all" else [name]))
        return cos[0], sin[0]

    def learned_positions(self, count: int) -> Tensor | None:
        """f32[count, H] to add to the embeddings of ``count`` positions; None where there is nothing to add.

        Raises:
            UnsupportedModel: when the model has fewer.
        """
        table = self.optional(self.family.positions)
        if table is None:
            return None
        # OPT's first two rows and RoBERTa's up to the padding's are not positions.
        first = getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        rows = table.weight.detach()[first:]
        if count > len(rows):
            raise UnsupportedModel(f"the model has {len(rows)} positions, which is less than {count} tokens")
        types = self.optional(self.family.types)
        return rows[:count] + (0 if types is None else types.weight.detach()[0])

    def logits(self, tokens: Tensor, mask: Tensor, at: tuple[Tensor, ...], words: Sequence[int] | None) -> Tensor:
        """transformers' own, f32[n, V] (or of some ``words``), at n (row, position) of rows i64[R, T].

        ``mask`` i64[R, T] is 1 at the rows' tokens, 0 at what fills them.
        """
        if self.family.causal:  # whose own norm is within
            out = self.model.base_model(tokens, attention_mask=mask, use_cache=False).last_hidden_state[at]
        else:
            out = nn.Sequential(*self.norms)(self.model.base_model(tokens, attention_mask=mask).last_hidden_state[at])
        head, some = self.head, slice(None) if words is None else list(words)
        logits = F.linear(out, head.weight[some], None if head.bias is None else head.bias[some])
        return logits if self.final_cap is None else self.final_cap * torch.tanh(logits / self.final_cap)

    def linears(self) -> Iterator[tuple[int, str, nn.Linear]]:
        """(layer, name within it, module) of all linears."""
        for i, layer in enumerate(self.layers):
            yield from ((i, name, m) for name, m in layer.named_modules() if isinstance(m, nn.Linear))

    def makes_keys(self, name: str) -> bool:
        """Whether a linear, named within its layer, makes keys or values."""
        own = self.family.queries_keys_values
        return name in (f"{self.family.attention}.{x}" for x in (own if len(own) == 1 else own[1:]))

    def fused_rows(self, name: str, linear: nn.Linear) -> list[Tensor] | None:
        """Which rows of a fused linear, named within its layer, make each of its parts; None for others."""
        rows = torch.arange(linear.out_features)
        if name == self.family.gate_up:
            return list(rows.chunk(2))
        if self.family.queries_keys_values != (name.removeprefix(self.family.attention + "."),):
            return None
        if self.family.by_head:
            return [part.reshape(-1) for part in rows.reshape(self.heads, 3, -1).unbind(1)]
        return list(rows.split([n * self.head_size for n in (self.heads, self.kv_heads, self.kv_heads)]))


def _refuse_traits(config: Any) -> None:
    """Raise `UnsupportedModel` for traits that change the computation and that no family covers."""
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModel("decoders with bidirectional attention are not supported")
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedModel("encoders used as decoders, or with cross-attention, are not supported")
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise UnsupportedModel("embeddings of another width than the layers are not supported")


def _linear(conv: Conv1D) -> nn.Linear:
    """The same computation as a linear layer."""
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().T.contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    return linear
