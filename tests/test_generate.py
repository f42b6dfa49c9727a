"""The program that continues text, against transformers' own generation with the adapter merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from conftest import VOCABULARY, randomized, tiny_config
from peft import PeftModel
from test_families import ENCODERS, config
from transformers import AutoModelForCausalLM, AutoTokenizer

from prge.cli import app as cli
from prge.commands.evaluate import predict
from prge.errors import UserError
from prge.export.generate import reach
from prge.export.program import REPORT_FILE
from prge.models.adapter import AdapterConfig
from prge.models.build import LabelWordsObjective, build_step
from prge.models.families import FAMILIES
from prge.models.generation import Generator
from prge.models.step import StepConfig
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.generate import Cache, GenerateProgram, choose
from prge.runtime_driver.program.state import save_peft, save_state
from prge.runtime_driver.program.step import StepProgram

CONTEXT = 150
SIZES = {"min_tokens": 8, "max_tokens": 8, "context": CONTEXT}  # of the step's rows, which are not of interest here
FISHER = AdapterConfig(rank=4, alpha=8.0, subspace="fisher", directions=3)
TEXT_TASK = {"label_words": (), "target": " {label}", "max_targets": 4}


@pytest.fixture(scope="session")
def folder(export: Callable[..., Path]) -> Path:
    """A step and a generator in float32, of the tiny model."""
    return export(adapter=FISHER, **SIZES)


def trained_state(step: StepProgram) -> torch.Tensor:
    """Random parameters, large enough to change what is generated."""
    state = step.initial_state()
    size = step.manifest.parameters
    state[:size] = 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(4))
    return state


def merged(base: Any, step: StepProgram, state: torch.Tensor, folder: Path) -> Any:
    """``base`` with the state's adapter folded in by PEFT."""
    save_peft(folder, step.manifest, step.frozen(), state)
    return PeftModel.from_pretrained(base, str(folder)).merge_and_unload().eval()


def load(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def random_tokens(count: int) -> list[int]:
    tokens: list[int] = torch.randint(1, 600, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    return tokens


@pytest.mark.parametrize(
    ("changes", "adapter", "task"),
    [
        ({}, FISHER, {}),
        ({}, AdapterConfig(rank=4, subspace="svd"), TEXT_TASK),
        ({"tie_word_embeddings": False, "num_key_value_heads": 4}, AdapterConfig(rank=4, subspace=None), {}),
        ({"tie_word_embeddings": False, "num_key_value_heads": 1}, AdapterConfig(rank=4, subspace="svd"), TEXT_TASK),
    ],
)
def test_it_generates_what_transformers_does(
    export: Callable[..., Path], make_model: Callable[[Any], Path], tiny_model: Path, tmp_path: Path,
    changes: dict[str, Any], adapter: AdapterConfig, task: dict[str, Any],
) -> None:  # fmt: skip
    """Token for token; and the logits, at the prompt's end and after every token."""
    model = make_model(tiny_config(**changes)) if changes else tiny_model
    step_config = StepConfig(2, 2) if adapter.subspace else StepConfig(2, 2, "weights", "sgd")
    folder = export(model=model, adapter=adapter, step=step_config, **SIZES, **task)
    step, program = StepProgram(folder), GenerateProgram(folder)
    state = trained_state(step)
    hf, plain = merged(load(model), step, state, tmp_path / "adapter"), load(model)
    assert program.manifest.stop_tokens == (0, 2)  # the tokenizer's, and the config's
    # One token, a few, as many as one execution reads, and one more.
    for prompt in [random_tokens(n) for n in (1, 7, 100, 128, 129)]:
        row, bound = torch.tensor([prompt]), CONTEXT - len(prompt)
        settings = {"max_new_tokens": min(24, bound), "do_sample": False, "eos_token_id": [0, 2], "pad_token_id": 0}
        with torch.no_grad():
            expected, other = (m.generate(row, **settings)[0, len(prompt) :].tolist() for m in (hf, plain))
            logits = hf(torch.tensor([prompt + expected])).logits[0, len(prompt) - 1 :]
        assert expected != other  # the adapter has a say
        assert list(program.generate(prompt, state, 24)) == [token for token in expected if token not in (0, 2)]
        cache = program.new_cache()
        for read, after in zip([prompt, *([token] for token in expected)], logits, strict=True):
            torch.testing.assert_close(program.read(state, read, cache), after, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ENCODERS])
def test_every_family_reads_on(family: str) -> None:
    """In eager PyTorch: however a text is cut, the logits are the model's own."""

    def tiny() -> Any:
        torch.manual_seed(0)
        return randomized(AutoModelForCausalLM.from_config(config(family))).eval()

    tokens = torch.randint(0, 100, (1, 14), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tiny()(tokens).logits[0]
        built = build_step(tiny(), AdapterConfig(rank=2), StepConfig(1, 1), LabelWordsObjective([5, 7]), 16)
        generator, parts = Generator(built, share_table=True), built.parts
        cache = Cache([(parts.kv_heads, parts.head_size)] * 2, 16)
        for start, end in ((0, 5), (5, 6), (6, 7), (7, 14)):
            row, at = tokens[:, start:end], torch.tensor([start])
            logits, keys, values = generator(torch.zeros(built.step.size), row, at, cache.keys, cache.values)
            cache.append([*keys, *values])
            torch.testing.assert_close(logits[0], expected[end - 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("quantization", "task"), [("8da8w", {}), ("8da4w", TEXT_TASK)])
def test_quantized_logits_are_those_of_rounded_weights(
    export: Callable[..., Path], make_model: Callable[[Any], Path], tmp_path: Path, quantization: str,
    task: dict[str, Any],
) -> None:  # fmt: skip
    """Up to the rounding of activations; and reading token by token changes nothing."""
    model = make_model(tiny_config(initializer_range=0.1))
    folder = export(model=model, quantization=quantization, **SIZES, **task)
    step, program, hf = StepProgram(folder), GenerateProgram(folder), load(model)
    state, tokens = trained_state(step), random_tokens(40)
    reference.round_weights(hf, quantization)
    bits, group = (8, 32) if quantization == "8da8w" else (4, 32)  # the tiny model's hidden size is 32
    hf.lm_head.weight.data = reference.rounded(hf.lm_head.weight.data, bits, group)
    weights = reference.adapted_weights(hf, step.manifest, step.frozen(), state)
    with torch.no_grad():
        expected = reference.logits(hf, weights, tokens)[-1]
    whole = program.read(state, tokens, program.new_cache())
    cache = program.new_cache()
    for token in tokens:
        last = program.read(state, [token], cache)
    assert (whole - expected).abs().max() < 0.1 * expected.abs().max()
    torch.testing.assert_close(last, whole, rtol=0, atol=1e-3)


def test_the_report_counts_what_was_delegated(folder: Path) -> None:
    report = json.loads((folder / REPORT_FILE).read_text())
    made = report["generator"]
    assert made["delegate_calls"] <= 5 and made["inside_share"] == 1.0
    assert made["program_bytes"] == (folder / "generate.pte").stat().st_size
    table = VOCABULARY * 32 * 4
    assert made["program_bytes"] < report["weight_bytes"] + table  # a tied table is there once
    assert made["outside"]["cat"] == 1  # of the mask's integers: keys and values are joined inside


def test_the_context_ends(folder: Path) -> None:
    step, program = StepProgram(folder), GenerateProgram(folder)
    state = step.initial_state()
    program.manifest = replace(program.manifest, stop_tokens=())
    assert len(list(program.generate(random_tokens(CONTEXT - 3), state, 24))) == 3
    assert len(list(program.generate(random_tokens(5), state, 4))) == 4
    with pytest.raises(UserError, match=r"the prompt has 150 tokens.*larger --context"):
        list(program.generate(random_tokens(CONTEXT), state, 24))
    with pytest.raises(UserError, match="empty"):
        list(program.generate([], state, 24))


def test_a_stop_token_ends_the_text(folder: Path) -> None:
    program = GenerateProgram(folder)
    state = program.initial_state()
    program.manifest = replace(program.manifest, stop_tokens=())
    tokens = list(program.generate(random_tokens(5), state, 12))
    program.manifest = replace(program.manifest, stop_tokens=(tokens[6],))
    assert list(program.generate(random_tokens(5), state, 12)) == tokens[: tokens.index(tokens[6])]


def test_encoders_do_not_generate() -> None:
    with pytest.raises(UserError, match="leave --generate out"):
        reach(config("bert"))


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.1, 0.5, 0.15, 0.25])

    def shares(temperature: float, top_p: float) -> torch.Tensor:
        drawn = [choose(p.log(), temperature, top_p, generator) for _ in range(4000)]
        return torch.bincount(torch.tensor(drawn), minlength=4) / 4000

    assert choose(p.log(), 0.0, 1.0, generator) == 1
    torch.testing.assert_close(shares(1.0, 1.0), p, rtol=0, atol=0.04)
    torch.testing.assert_close(shares(0.5, 1.0), p**2 / (p**2).sum(), rtol=0, atol=0.04)
    # 0.5 alone is less than 0.6; with 0.25 it is more.
    torch.testing.assert_close(shares(1.0, 0.6), torch.tensor([0, 0.5, 0, 0.25]) / 0.75, rtol=0, atol=0.04)
    assert shares(1.0, 0.0)[1] == 1.0  # never nothing


def test_seeds_repeat(folder: Path) -> None:
    program = GenerateProgram(folder)
    state, prompt = program.initial_state(), random_tokens(5)
    one, again, other = (list(program.generate(prompt, state, 20, 1.0, 0.9, seed)) for seed in (1, 1, 2))
    assert one == again != other


@pytest.fixture
def prge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run a command: (exit code, what it printed)."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["prge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out

    return run


def test_the_command(prge: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path) -> None:
    """It prints what the program generates, with a run's state; and as JSON."""
    step, program = StepProgram(folder), GenerateProgram(folder)
    save_state(tmp_path / "state.safetensors", trained_state(step), step.manifest)
    tokenizer = Encoder(program.manifest, folder / "tokenizer.json").tokenizer
    tokens = list(program.generate(tokenizer.encode("call me").ids, trained_state(step), 8))
    code, printed = prge("generate", folder, "call me", "--state", tmp_path, "--max-new-tokens", 8)
    assert code == 0 and printed.rstrip("\n") == tokenizer.decode(tokens).rstrip("\n\ufffd")
    code, printed = prge("generate", folder / "generate.pte", "call me", "--max-new-tokens", 8, "--json")
    result = json.loads(printed)
    assert code == 0 and result["new_tokens"] <= 8 and result["text"] != tokenizer.decode(tokens)
    code, drawn = prge("generate", folder, "call me", "--temperature", 1, "--top-p", 0.9, "--seed", 3, "--json")
    assert code == 0 and json.loads(drawn)["text"] != result["text"]


def test_characters_of_several_tokens_come_whole(
    prge: Callable[..., tuple[int, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " naïve 😀 日本語 done"
    tokenizer = Encoder(GenerateProgram(folder).manifest, folder / "tokenizer.json").tokenizer
    tokens = tokenizer.encode(text).ids
    assert len(tokens) > len(text)  # some characters are more than one token

    def spoken(self: GenerateProgram, *args: object) -> Iterator[int]:
        return iter(tokens)

    pieces: list[str] = []
    monkeypatch.setattr(GenerateProgram, "generate", spoken)
    monkeypatch.setattr("builtins.print", lambda *args, **kwargs: pieces.extend(args))
    prge("generate", folder, "hello")
    assert "".join(pieces) == text and len(pieces) > 5 and not any("\ufffd" in piece for piece in pieces)


def test_what_cannot_generate_says_what_to_do(
    prge: Callable[..., tuple[int, str]], folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"junk")
    save_state(tmp_path / "other.safetensors", torch.zeros(5), GenerateProgram(folder).manifest)
    data = demo_data / "train.tsv"
    for arguments, message in [
        (["generate", tmp_path, "a"], "generate.pte does not exist; make it with `prge export --generate`"),
        (["generate", folder / "program.pte", "a"], "is a fine-tuning step; this command takes the generate.pte"),
        (["predict", folder / "generate.pte", "a"], "continues text (`prge generate`); this command takes the program"),
        (["train", folder / "generate.pte", "--data", data, "-o", tmp_path / "run"], "takes the program.pte"),
        (["generate", folder, "a", "--state", tmp_path / "other.safetensors"], "was it trained with another program"),
        (["generate", folder, "a", "--state", tmp_path], "not a state of prge"),
        (["generate", folder, "a " * CONTEXT], "larger --context"),
        (["generate", folder, ""], "the prompt is empty"),
    ]:
        code, printed = prge(*arguments, "--json")
        assert code == 1 and message in json.loads(printed)["error"], arguments
    assert not (tmp_path / "run").exists()


def test_one_text_is_predicted_in_one_execution(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executions: list[int] = []
    execute = StepProgram.execute

    def counted(self: StepProgram, *args: Any) -> Any:
        executions.append(1)
        return execute(self, *args)

    monkeypatch.setattr(StepProgram, "execute", counted)
    (answer,) = predict(folder, ("call me back",), truncate=True)["predictions"]
    assert len(executions) == 1 and answer["label"] in ("today", "later")


def test_a_message_is_written_by_the_chat_template(
    prge: Callable[..., tuple[int, str]], folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = prge("generate", folder, "hi", "--chat", "--json")
    assert code == 1 and "has no chat template" in json.loads(printed)["error"]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"
    prompts: list[list[int]] = []

    class Speaker(GenerateProgram):
        def __init__(self, path: Path):
            super().__init__(path)
            assert self.manifest.special_tokens["eos_token"] == "<end>"
            self.manifest = replace(self.manifest, chat_template=template)

        def generate(self, prompt: Any, *args: Any) -> Iterator[int]:
            prompts.append(prompt)
            return iter([])

    monkeypatch.setattr("prge.commands.generate.GenerateProgram", Speaker)
    assert prge("generate", folder, "call me", "--chat")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    messages = [{"role": "user", "content": "call me"}]
    expected: Any = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)
    assert prompts == [expected["input_ids"]]


def test_written_answers_are_scored(
    prge: Callable[..., tuple[int, str]], export: Callable[..., Path], folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Two of three records ask for what the model writes by itself."""
    step = StepConfig(2, 2)
    program = export(model=tiny_model, adapter=AdapterConfig(rank=4, subspace="svd"), step=step, **SIZES, **TEXT_TASK)
    tokenizer, hf = AutoTokenizer.from_pretrained(tiny_model), load(tiny_model)
    rows = []
    for text in ("call me", "thanks for dinner", "see you at the station"):
        prompt = torch.tensor([tokenizer(f"{text} Reply")["input_ids"]])
        with torch.no_grad():
            new = hf.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        rows.append((text, str(tokenizer.decode(new, skip_special_tokens=True)).strip().split("\n")[0].strip()))
    rows[1] = rows[1][0], "zzz"
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": t, "label": a}) + "\n" for t, a in rows))
    code, printed = prge("eval", program, "--data", tmp_path / "data.jsonl", "--generate", "--truncate", "--json")
    found = json.loads(printed)
    assert code == 0 and found["exact_match"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx(2 / 3)
    code, printed = prge("eval", folder, "--data", tmp_path / "data.jsonl", "--generate", "--truncate", "--json")
    assert code == 1 and "chooses among given answers" in json.loads(printed)["error"]
