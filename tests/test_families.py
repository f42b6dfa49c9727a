"""Every family: programs, steps and adapters against transformers' own model; the table in docs/families.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEMPLATE, VOCABULARY, randomized
from peft import PeftModel
from test_step import compare_step, random_batch, random_state
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from prge.cost import weight_bytes
from prge.errors import UserError
from prge.examples.rows import Example, answer_position, cut_left
from prge.export.merge import merge_adapters
from prge.export.plan import plan, planned
from prge.export.program import REPORT_FILE
from prge.export.prompts import check_template
from prge.manifest import QUANTIZATIONS, Manifest
from prge.models.adapter import AdapterConfig
from prge.models.build import LabelWordsObjective, build_step
from prge.models.checkpoints import load_checkpoint, load_sizes
from prge.models.families import FAMILIES, Family, UnsupportedModel
from prge.models.step import Step, StepConfig
from prge.quiet import quiet
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.state import save_peft
from prge.runtime_driver.program.step import StepProgram

TABLE = Path(__file__).parents[1] / "docs" / "families.md"

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY + 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
GATED = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
# What each family has beside the others; windows are shorter than the rows.
SIZES: dict[str, dict[str, Any]] = {
    "llama": GATED | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "mistral": GATED | {"sliding_window": 6},
    "qwen2": GATED | {"tie_word_embeddings": False},
    "qwen3": GATED | {"head_dim": 16},
    "gemma2": GATED
    | {"sliding_window": 5, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    "gemma3_text": GATED
    | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 12},
    "phi3": GATED
    | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "sliding_window": 9,
    },
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"n_inner": 48},
    "gpt_neox": {"intermediate_size": 48, "tie_word_embeddings": False},
    "bert": {"intermediate_size": 48},
    "electra": {"intermediate_size": 48, "embedding_size": 32},
    "roberta": {"intermediate_size": 48},
    "xlm-roberta": {"intermediate_size": 48},
    "camembert": {"intermediate_size": 48},
    "distilbert": {"hidden_dim": 48},
    "modernbert": {
        "intermediate_size": 48,
        "local_attention": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    },
}
EXACT = StepConfig(1, 2, "exact")
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
ENCODERS = [name for name, family in FAMILIES.items() if not family.causal]
# Of noise, masks, lookups, targets and the update: they read no weights.
USUAL = """
    div mul add sub bitwise_xor bitwise_and bitwise_or view_copy unsqueeze_copy squeeze_copy slice_copy select_copy
    expand_copy alias_copy embedding repeat full full_like cat scalar_tensor arange cumsum remainder pow floor
    ge gt le lt eq ne where gather scatter_add index_select permute_copy _to_copy _log_softmax mean sum
"""


def config(family: str, **changes: Any) -> Any:
    return AutoConfig.for_model(family, **COMMON | SIZES[family] | changes)


def record(family: str, objective: str, folder: Path, difference: float) -> None:
    """Compare a program with its line of the table; with PRGE_WRITE_TABLES set, write the line."""
    report = json.loads((folder / REPORT_FILE).read_text())
    others = ", ".join(sorted(set(report["outside"]) - set(USUAL.split()))) or "none"
    line = f"| {family} | {objective} | {difference:.0e} | {report['delegate_calls']} | {others} |"
    assert report["inside_share"] == 1.0
    text = TABLE.read_text()
    begin, end = text.index("<!-- table -->"), text.index("<!-- end -->")
    lines = [x for x in text[begin:end].splitlines()[3:] if x]
    known = {tuple(x.split(" | ")[:2]): x for x in lines}
    key = tuple(line.split(" | ")[:2])
    if os.environ.get("PRGE_WRITE_TABLES"):
        order = [(f"| {name}", what) for name in (*FAMILIES, "bert without a head") for what in ("classes", "language")]
        known[key] = line
        rows = sorted(known.values(), key=lambda x: order.index(tuple(x.split(" | ")[:2])))  # type: ignore[arg-type]
        head = text[begin:end].splitlines()[:3]
        TABLE.write_text(text[:begin] + "\n".join([*head, *rows]) + "\n" + text[end:])
    else:
        assert known[key].split(" | ")[3:] == line.split(" | ")[3:]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ENCODERS])
def test_decoders_classify(
    family: str, make_model: Callable[..., Path], export: Callable[..., Path], tmp_path: Path
) -> None:
    """Every linear of the upper layer trains; PEFT gives the adapted program's scores."""
    model = make_model(config(family))
    folder = export(model=model, adapter=all_linears("fisher"), step=EXACT)
    program = StepProgram(folder)
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    batch = random_batch(program)
    record(family, "classes", folder, compare_step(program, hf, batch))
    words = [label.token for label in program.manifest.labels]
    check_peft(program, hf, batch, tmp_path, lambda model, tokens: model(tokens).logits[0, -1, words])
    check_costs(program, hf)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3_text", "opt", "gpt2", "gpt_neox", "phi3", "bert"])
def test_the_full_gradient(
    family: str, make_model: Callable[..., Path], export: Callable[..., Path], encoder_tokenizer_folder: Path
) -> None:
    """Through bounded scores, windows, learned positions, split linears, and keys on both sides."""
    settings = {"adapter": all_linears("fisher"), "step": StepConfig(1, 2, "full")}
    if family in ENCODERS:
        model = make_model(config(family), AutoModelForMaskedLM, encoder_tokenizer_folder)
        program = StepProgram(export(model=model, template=TEMPLATE + "{mask}", **settings))
        hf: Any = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32).eval()
        batch = [with_mask(example) for example in random_batch(program)]
    else:
        model = make_model(config(family))
        program = StepProgram(export(model=model, **settings))
        hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        batch = random_batch(program)
    compare_step(program, hf, batch)
    check_costs(program, hf)


@pytest.mark.parametrize("family", ["gemma2", "opt", "gpt2"])
def test_decoders_model_language(family: str, make_model: Callable[..., Path], export: Callable[..., Path]) -> None:
    """With perturbed weights, the paper's step."""
    model = make_model(config(family))
    folder = export(
        model=model, adapter=all_linears(None), step=StepConfig(2, 2, "weights", "sgd"), label_words=(),
        target=" {label}", max_targets=4,
    )  # fmt: skip
    program = StepProgram(folder)
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    record(family, "language", folder, compare_step(program, hf, random_batch(program)))


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_classify_at_the_mask(
    family: str, make_model: Callable[..., Path], export: Callable[..., Path], encoder_tokenizer_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = make_model(config(family), AutoModelForMaskedLM, encoder_tokenizer_folder)
    folder = export(model=model, adapter=all_linears("fisher"), step=EXACT, template=TEMPLATE + "{mask}")
    program = StepProgram(folder)
    hf = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32).eval()
    batch = [with_mask(example) for example in random_batch(program)]
    record(family, "classes", folder, compare_step(program, hf, batch))
    words = [label.token for label in program.manifest.labels]
    encoded = Encoder(program.manifest, folder / "tokenizer.json").example({"text": "are you there"}).tokens
    assert (encoded[0], encoded[-2:], encoded.count(3), 1 in encoded) == (0, (3, 2), 1, False)

    def scores(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens).logits[0, tokens[0].tolist().index(3), words]

    check_peft(program, hf, batch, tmp_path, scores)
    check_costs(program, hf)


def test_a_plain_encoder_answers_at_its_first_token(
    make_model: Callable[..., Path], export: Callable[..., Path], encoder_tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = make_model(config("bert"), AutoModel, encoder_tokenizer_folder)
    words = (("today", " reply by tonight"), ("later", " no hurry"))
    folder = export(model=model, adapter=all_linears("fisher"), step=EXACT, template="{text}", label_words=words)
    program = StepProgram(folder)
    hf = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.no_grad():
        firsts = [
            hf(torch.tensor([tokenizer.encode(word).ids])).last_hidden_state[0, 0]
            for word in (words[0][1], words[1][1], "")
        ]
    hf.label_rows = torch.stack(firsts[:2])
    hf.label_bias = -hf.label_rows @ firsts[2]
    batch = random_batch(program)
    record("bert without a head", "classes", folder, compare_step(program, hf, batch))

    def scores(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens).last_hidden_state[0, 0] @ hf.label_rows.T + hf.label_bias

    check_peft(program, hf, batch, tmp_path, scores)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("opt", {"do_layer_norm_before": False, "enable_bias": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu_fast"}),
        ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}),
        ("phi3", {"num_key_value_heads": 1}),
    ],
)
@pytest.mark.parametrize("step_config", [StepConfig(1, 4, "exact"), StepConfig(2, 4), StepConfig(1, 2, "weights")])
def test_traits_within_a_family(family: str, changes: dict[str, Any], step_config: StepConfig) -> None:
    """The step's module before export, whose rows are padded by real tokens."""
    tokens = torch.randint(0, 100, (4, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tiny(family, **changes)(tokens).logits
        objective = LabelWordsObjective([5, 7, 9])
        step = build_step(tiny(family, **changes), AdapterConfig(rank=2), step_config, objective, 16).step
    check_scores(step, tokens, logits, torch.tensor([10, 3, 0, 7]), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("opt", {"word_embed_proj_dim": 16}, "another width"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("gpt2", {"max_position_embeddings": 8}, "8 positions"),
        ("bert", {"is_decoder": True}, "used as decoders"),
        ("phi3", {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 8}, "beyond 8 tokens"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(family: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        build_step(tiny(family, **changes), AdapterConfig(rank=2), StepConfig(), LabelWordsObjective([1, 2]), 16)


def test_keys_and_values_do_not_train_by_default() -> None:
    def trained(family: str) -> set[str]:
        built = build_step(tiny(family), AdapterConfig(rank=2), StepConfig(), LabelWordsObjective([1, 2]), 16)
        return {layer.module.name.split(".1.")[1] for layer in built.adapters}

    assert trained("llama") == {"self_attn.q_proj", "self_attn.o_proj"} | {
        f"mlp.{x}_proj" for x in ("gate", "up", "down")
    }
    assert trained("gpt2") == {"attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    assert trained("bert") == {"attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"}


def test_templates_of_encoders(
    make_model: Callable[..., Path], tiny_model: Path, encoder_tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = make_model(config("distilbert"), AutoModelForMaskedLM, encoder_tokenizer_folder)
    for source, template, reason in [
        (model, "{text} It was", "write {mask} once"),
        (model, "{text} {mask} or {mask}", "write {mask} once"),
        (tiny_model, "{text} {mask}", "leave {mask} out"),
    ]:
        with pytest.raises(UserError, match=reason):
            check_template(load_checkpoint(str(source)), template)


@pytest.mark.parametrize("tokens", [(0, 5, 6, 2), (0, 3, 5, 3, 2)])
def test_a_row_holds_its_mask_token_once(tokens: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"line 7.*not once"):
        answer_position(tokens, "mask", 3, "line 7")
    assert answer_position((0, 5, 3, 2), "mask", 3, "") == 2


def test_long_rows_of_encoders_keep_their_first_token() -> None:
    assert cut_left((0, 5, 6, 7, 3, 2), 4, "mask") == (0, 7, 3, 2)
    assert cut_left((0, 5, 6, 7, 3, 2), 4, "last") == (6, 7, 3, 2)


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_plans_know_every_family(family: str, make_model: Callable[..., Path], encoder_tokenizer_folder: Path) -> None:
    auto = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    sizes = load_sizes(str(make_model(config(family), auto, encoder_tokenizer_folder)))
    rows = plan(planned(sizes, StepConfig(2, 2), 16, 0), 1e9)
    assert [row["fits"] for row in rows] == [True] * len(QUANTIZATIONS)
    if family in ENCODERS:
        with pytest.raises(UnsupportedModel, match="do not model language"):
            planned(sizes, StepConfig(2, 2), 16, 4)


def test_the_page_shows_a_family_as_it_is() -> None:
    shown = TABLE.read_text().split("```py\n")[1].split("```")[0]
    assert eval(f"{{{shown}}}", {"Family": Family}) == {"gpt2": FAMILIES["gpt2"]}


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = COMMON | SIZES.get(family, {}) | changes
    encoder = family in ENCODERS
    auto: Any = AutoModelForMaskedLM if encoder else AutoModelForCausalLM
    return randomized(auto.from_config(AutoConfig.for_model(family, **settings))).eval()


def all_linears(subspace: Any) -> AdapterConfig:
    return AdapterConfig(rank=3, alpha=6.0, modules=("*",), layers=slice(1, None), subspace=subspace, directions=2)


def with_mask(example: Example) -> Example:
    tokens = [max(token, 4) for token in example.tokens]
    tokens[len(tokens) // 2] = 3
    return Example(tuple(tokens), example.label)


def check_scores(
    step: Step, tokens: torch.Tensor, logits: torch.Tensor, position: torch.Tensor, label: torch.Tensor
) -> None:
    """At its first state a step's scores of the words 5, 7 and 9 are the model's ``logits`` of all tokens."""
    zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
    state, targets = torch.zeros(step.state_size), (position.unsqueeze(1), label)
    with torch.no_grad():
        _, losses, scores = step(state, step.backbone.frozen(tokens), tokens, targets, one, zero, zero)
    expected = logits[torch.arange(len(tokens)), position][:, [5, 7, 9]]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(expected, label, reduction="none"))


def check_peft(program: StepProgram, hf: Any, batch: list[Example], tmp_path: Path, scores: Callable[..., Any]) -> None:
    state = random_state(program)
    ours = evaluate(program, state, batch).scores
    save_peft(tmp_path / "adapter", program.manifest, program.frozen(), state)
    with torch.no_grad():
        plain = torch.stack([scores(hf, torch.tensor([e.tokens])) for e in batch])
        adapted = PeftModel.from_pretrained(hf, str(tmp_path / "adapter")).eval()
        expected = torch.stack([scores(adapted, torch.tensor([e.tokens])) for e in batch])
    assert ours is not None and (plain - expected).abs().max() > 1e-2
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)
    with quiet():
        merge_adapters([tmp_path / "adapter"], tmp_path / "merged")
    merged = type(hf).from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.stack([scores(merged, torch.tensor([e.tokens])) for e in batch])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)


def check_costs(program: StepProgram, hf: Any) -> None:
    """The manifest's bytes are those of the model's matrices, less the positions and types that no row reaches.

    A tied head is there twice, as the embedding is in the frozen part.
    """
    m = program.manifest
    base = {id(p): (name, p) for name, p in hf.named_parameters() if "lora_" not in name and p.dim() > 1}
    unread = sum(p.numel() for name, p in base.values() if "position" in name or "token_type" in name or "wpe" in name)
    head = 0 if m.architecture.tied or not m.labels else m.architecture.vocabulary * m.architecture.hidden
    learned = m.architecture.learned_positions * m.max_tokens * m.architecture.hidden
    again = m.architecture.vocabulary * m.architecture.hidden if m.architecture.tied and not m.labels else 0
    numbers = sum(p.numel() for _, p in base.values()) - unread + learned - head + again
    ways = 1 if m.estimates else 2
    numbers += (ways - 1) * sum(p.numel() for name, p in base.values() if reversed_too(m, name))
    assert weight_bytes(m) == 4 * (numbers + ways * program.frozen().numel())


def reversed_too(manifest: Manifest, name: str) -> bool:
    """Whether an exact gradient goes back through the matrix of this name."""
    layer = re.search(r"\.(?:layers?|h)\.(\d+)\.", name)
    return (
        int(layer[1]) >= manifest.first_layer
        if layer
        else bool(re.search("\\.transform|_transform|head.dense|generator_predictions", name))
    )
