"""Model families: where each keeps its parts. To declare another one, add a `Family` to FAMILIES."""

from __future__ import annotations

from dataclasses import dataclass, replace


class UnsupportedModel(ValueError):
    """The model is like no decoder that prge knows, or it has a trait that its family does not cover."""


@dataclass(frozen=True)
class Family:
    """Where the models of one type keep their parts, as dotted names in the checkpoint.

    Attributes:
        layers: the list of layers.
        embedding: the table of the tokens' embeddings.
        head: the linear that predicts tokens.
        norms: what stands between the last layer and the head, in order, inside the base model or behind it;
            ``"gelu"`` for the function, which is no module. A model may lack some of them.
        rotary: the module that makes the rotary tables; None without rotary positions.
        positions: the table of learned positions, added to the embedding; None where there are none.
        types: the table of token types, of which every token has the first; None where there are none.
        embedding_norm: the norm behind that sum; None where there is none.
        attention: the attention, named within a layer.
        attention_norm: the norm whose output the attention takes, named within a layer; None where it takes the layer's
            input itself.
        queries_keys_values: the three linears of queries, keys and values, named within the attention; one name where
            they are fused into one linear.
        output: the linear that closes the attention, named within it; None where it is outside.
        by_head: whether the outputs of a fused linear come head by head, q, k and v of each; else all q, all k, all v.
        gated: of a gated feed-forward module, the fused linear, gate first, the linear that closes it, and the
            activation, named within a layer; None where there is no fused one.
        transposed: whether the linears are GPT-2's ``Conv1D``, with weights [in, out].
        causal: whether a token sees only those before it. Other models are encoders. They answer at the mask token, or
            at their first token where they have no masked-LM head.
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
    attention_norm: str | None = "input_layernorm"
    queries_keys_values: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    output: str | None = "o_proj"
    by_head: bool = False
    gated: tuple[str, str, str] | None = None
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
        attention_norm=None,
        queries_keys_values=("query", "key", "value"),
        output=None,
        causal=False,
    )


_ROBERTA = replace(_bert("roberta"), head="lm_head.decoder", norms=("lm_head.dense", "gelu", "lm_head.layer_norm"))

FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": replace(
        _LLAMA, queries_keys_values=("qkv_proj",), gated=("mlp.gate_up_proj", "mlp.down_proj", "mlp.activation_fn")
    ),
    "opt": Family(
        layers="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        norms=("model.decoder.final_layer_norm",),
        positions="model.decoder.embed_positions",
        attention_norm="self_attn_layer_norm",
        output="out_proj",
    ),
    "gpt2": Family(
        layers="transformer.h",
        embedding="transformer.wte",
        norms=("transformer.ln_f",),
        positions="transformer.wpe",
        attention="attn",
        attention_norm="ln_1",
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
    "electra": replace(_bert("electra"), head="generator_lm_head", norms=("generator_predictions",)),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        layers="distilbert.transformer.layer",
        embedding="distilbert.embeddings.word_embeddings",
        head="vocab_projector",
        norms=("vocab_transform", "activation", "vocab_layer_norm"),
        positions="distilbert.embeddings.position_embeddings",
        embedding_norm="distilbert.embeddings.LayerNorm",
        attention="attention",
        attention_norm=None,
        queries_keys_values=("q_lin", "k_lin", "v_lin"),
        output="out_lin",
        causal=False,
    ),
    "modernbert": Family(
        layers="model.layers",
        embedding="model.embeddings.tok_embeddings",
        head="decoder",
        norms=("model.final_norm", "head"),
        rotary="model.rotary_emb",
        embedding_norm="model.embeddings.norm",
        attention="attn",
        attention_norm="attn_norm",
        queries_keys_values=("Wqkv",),
        output="Wo",
        gated=("mlp.Wi", "mlp.Wo", "mlp.act"),
        causal=False,
    ),
}
