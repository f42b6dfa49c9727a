"""Adapters in and out: they know their base, come from PEFT and go back, are summed and compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEMPLATE, tiny_config
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from prge.eager import TorchProgram
from prge.errors import UserError
from prge.examples.rows import Example
from prge.lora import read_lora
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.state import load_state, save_peft, save_state, steps_behind
from prge.runtime_driver.program.step import StepProgram

Prge = Callable[..., tuple[int, Any]]


def examples(program: StepProgram, data: Path, count: int) -> list[Example]:
    return Encoder(program.manifest, program.path.parent / "tokenizer.json", truncate=True).examples(data, count)


def base(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def losses(model: Any, program: StepProgram, texts: Sequence[Example]) -> torch.Tensor:
    """Over the label words, of unpadded rows, one by one."""
    words = [label.token for label in program.manifest.labels]
    rows = torch.stack([model(torch.tensor([e.tokens])).logits[0, -1, words] for e in texts])
    labels = torch.tensor([e.label for e in texts])
    return torch.nn.functional.cross_entropy(rows, labels, reduction="none")


def random_state(program: StepProgram, seed: int) -> torch.Tensor:
    state, size = program.initial_state(), program.manifest.parameters
    state[:size] += 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return state


@pytest.fixture(scope="session")
def peft_trained(tiny_model: Path, program_folder: Path, demo_data: Path, tmp_path_factory: Any) -> Callable[..., Path]:
    """Train an adapter by PEFT and backpropagation, a few steps on the program's texts; returns its folder."""

    def run(**settings: Any) -> Path:
        folder: Path = tmp_path_factory.mktemp("peft")
        torch.manual_seed(1)
        model: Any = get_peft_model(base(tiny_model), LoraConfig(**settings))
        program = StepProgram(program_folder)
        texts = examples(program, demo_data / "train.tsv", 8)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            losses(model, program, texts).mean().backward()
            optimizer.step()
        model.save_pretrained(str(folder))
        return folder

    return run


@pytest.fixture(scope="session")
def plain_adapter(peft_trained: Callable[..., Path]) -> Path:
    return peft_trained(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"])


def test_a_state_knows_its_base_and_its_factors(program_folder: Path, tmp_path: Path) -> None:
    program, file = StepProgram(program_folder), tmp_path / "state.safetensors"
    m, state = program.manifest, random_state(StepProgram(program_folder), 0)
    save_state(file, state, m, steps=7)
    assert torch.equal(load_state(file, m), state) and steps_behind(file, m) == 7
    # The same adapter under another optimizer: its parameters alone fit.
    sgd = replace(m, optimizer="sgd", state_size=m.parameters)
    assert torch.equal(load_state(file, sgd), state[: m.parameters]) and steps_behind(file, sgd) == 0
    save_state(file, state[: m.parameters], sgd, steps=7)
    assert torch.equal(load_state(file, m)[: m.parameters], state[: m.parameters])
    assert not load_state(file, m)[m.parameters :].any() and steps_behind(file, m) == 0
    other = replace(m, model="other-model", model_sha256="1" * 64)
    with pytest.raises(UserError) as refused:
        load_state(file, other)
    for part in (m.model, m.model_sha256[:12], other.model, other.model_sha256[:12]):
        assert part in str(refused.value)
    with pytest.raises(UserError, match=r"was it trained with another program"):
        load_state(file, replace(m, adapter=replace(m.adapter, modules=m.adapter.modules[1:]), state_size=50))
    with pytest.raises(UserError, match=r"other frozen factors.*prge export"):
        load_state(file, replace(m, adapter=replace(m.adapter, sha256="2" * 64)))
    save_file({"state": state}, file)
    with pytest.raises(UserError, match=r"other frozen factors"):
        load_state(file, m)


def test_an_adapter_has_a_card(program_folder: Path, tmp_path: Path) -> None:
    """As the hub reads it: what it was made of, by a name that is no path, and no text of the data or the template."""
    program, state = StepProgram(program_folder), random_state(StepProgram(program_folder), 0)
    for base, shown in (("owner/tiny-1b", "owner/tiny-1b"), ("/home/me/tiny-1b", None)):
        m = replace(program.manifest, model=base, template="A secret: {text} Reply")
        save_peft(tmp_path / "adapter", m, program.frozen(), state)
        found = ModelCard.load(tmp_path / "adapter" / "README.md")
        assert (found.data.base_model, found.data.library_name) == (shown, "peft")
        assert {"lora", "prge"} <= set(found.data.tags) and found.data.pipeline_tag == "text-generation"
        assert (f"base_model:adapter:{base}" in found.data.tags) == bool(shown)
        for word in ("tiny-1b", "`text`", "`label`", "2 classes", m.model_sha256):
            assert word in found.content
        assert not any(word in found.content for word in ("secret", "/home", "today", "later"))


def test_the_digest_is_of_layout_and_factors(program_folder: Path) -> None:
    program = StepProgram(program_folder)
    adapter, factors = program.manifest.adapter, program.frozen().half().numpy()
    assert adapter.sha256 == adapter.digest(factors.tobytes()) != replace(adapter, alpha=9.0).digest(factors.tobytes())
    factors[-1] += 1
    assert adapter.sha256 != adapter.digest(factors.tobytes())


def test_from_goes_on(prge: Prge, program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    """Two runs of three steps are one of six with the same rates, batches and directions."""
    program, data = StepProgram(program_folder), demo_data / "train.tsv"
    m, texts = program.manifest, examples(program, data, 24)
    whole = program.initial_state()
    for new_state, _ in fold(program, whole, texts, [], TrainConfig(6, lr=0.01, eps=m.eps)):
        whole = new_state
    command = ["train", program_folder, "--data", data, "--examples", 24, "--dev-fraction", 0, "--truncate"]
    state = program.initial_state()
    for step, (new_state, _) in enumerate(fold(program, state, texts, [], TrainConfig(6, lr=0.01, eps=m.eps))):
        state = new_state
        if step == 2:
            break
    save_state(tmp_path / "half", state, m, steps=3)
    code, done = prge(*command, "--steps", 3, "--lr", 0.005, "-o", tmp_path / "rest", "--from", tmp_path / "half")
    assert code == 0 and done["steps"] == 3
    torch.testing.assert_close(load_state(Path(done["state"]), m), whole, rtol=1e-6, atol=1e-7)
    assert steps_behind(Path(done["state"]), m) == 6
    # The run's PEFT folder goes in again: its cores exactly, no slots.
    code, _ = prge(*command, "--steps", 1, "--lr", "1e-12", "-o", tmp_path / "again", "--from", done["adapter"])
    again = load_state(tmp_path / "again" / "state.safetensors", m)
    torch.testing.assert_close(again[: m.parameters], whole[: m.parameters], rtol=0, atol=1e-6)
    described = json.loads((tmp_path / "again" / "config.json").read_text())
    assert code == 0 and described["data"]["from"] == done["adapter"] and described["train"]["after"] == 0


@pytest.mark.parametrize("subspace", ["fisher", "svd", None])
def test_cores_are_recovered_from_a_saved_adapter(
    prge: Prge, export: Callable[..., Path], demo_data: Path, tmp_path: Path, subspace: Any
) -> None:
    step = StepConfig(2, 2, "activations" if subspace else "weights", "sgd")
    program = StepProgram(export(adapter=AdapterConfig(rank=4, alpha=8.0, subspace=subspace), step=step))
    state = random_state(program, 3)
    save_peft(tmp_path / "adapter", program.manifest, program.frozen(), state)
    expected = evaluate(program, state, examples(program, demo_data / "test.tsv", 4))
    data = tmp_path / "four.tsv"
    data.write_text("".join((demo_data / "test.tsv").read_text().splitlines(True)[:5]))
    rows = len(data.read_text().splitlines()) - 1
    code, done = prge("eval", program.path, "--data", data, "--state", tmp_path / "adapter", "--truncate")
    assert code == 0 and rows == done["examples"] == 4
    assert done["loss"] == pytest.approx(expected.loss, abs=1e-5)
    zero = evaluate(program, program.initial_state(), examples(program, demo_data / "test.tsv", 4))
    assert abs(zero.loss - expected.loss) > 1e-2


LIST = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
REGEX = {"r": 4, "lora_alpha": 3, "target_modules": r".*layers\.1\..*(o|up)_proj", "use_rslora": True}


@pytest.mark.parametrize(("settings", "gradient"), [(LIST, "activations"), (REGEX, "weights")], ids=["list", "regex"])
def test_a_peft_adapter_comes_in_and_goes_out(
    prge: Prge, peft_trained: Callable[..., Path], tiny_model: Path, demo_data: Path, tmp_path: Path,
    settings: dict[str, Any], gradient: str,
) -> None:  # fmt: skip
    adapter, folder, run = peft_trained(**settings), tmp_path / "program", tmp_path / "run"
    words = ["--label", "today= today", "--label", "later= later", "--template", TEMPLATE, "--max-tokens", 40]
    shape = ["-q", 2, "-b", 2, "--quantization", "f32", "--gradient", gradient]
    code, _ = prge("export", tiny_model, "-o", folder, *words, *shape, "--adapter", adapter)
    program = StepProgram(folder)
    texts = examples(program, demo_data / "test.tsv", 5)
    plain, tuned = base(tiny_model), PeftModel.from_pretrained(base(tiny_model), str(adapter)).eval()
    with torch.no_grad():
        before, expected = losses(plain, program, texts), losses(tuned, program, texts)
    got = evaluate(program, program.initial_state(), texts).losses
    assert code == 0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    rebuilt = evaluate(TorchProgram(folder), program.initial_state(), texts).losses
    torch.testing.assert_close(rebuilt, expected, rtol=0, atol=1e-4)
    assert (expected - before).abs().max() > 0.1
    train_command = ["train", folder, "--data", demo_data / "train.tsv", "--dev-fraction", 0, "--truncate"]
    code, done = prge(*train_command, "--steps", 2, "--lr", 0.02, "-o", run)
    state = load_state(Path(done["state"]), program.manifest)
    ours = evaluate(program, state, texts).losses
    with torch.no_grad():
        theirs = losses(PeftModel.from_pretrained(base(tiny_model), done["adapter"]).eval(), program, texts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (ours - got).abs().max() > 1e-3
    # The adapter itself fits its program; without the file beside it there is no initial state.
    code, done = prge("predict", folder, "a text", "--state", adapter)
    assert code == 0
    (folder / "initial.safetensors").unlink()
    code, refused = prge("predict", folder, "a text")
    assert code == 1 and "initial.safetensors does not exist" in refused["error"]


def changed(adapter: Path, folder: Path, **fields: Any) -> Path:
    """A copy of an adapter with other fields in its config."""
    folder.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text()) | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    return folder


def test_what_does_not_fit_is_refused_in_one_sentence(
    prge: Prge, plain_adapter: Path, program_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["--label", "today= today", "--label", "later= later"]
    out, export = tmp_path / "out", ["export", tiny_model, "-o", tmp_path / "out", *words]
    for name, value in [
        ("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}), ("peft_type", "IA3"), ("init_lora_weights", "pissa_niter_4"),
    ]:  # fmt: skip
        code, refused = prge(*export, "--adapter", changed(plain_adapter, tmp_path / name, **{name: value}))
        assert code == 1 and f"{name} is {value!r}" in refused["error"] and not out.exists()
    same = changed(plain_adapter, tmp_path / "same", rank_pattern={"q_proj": 3}, alpha_pattern={"down_proj": 6})
    assert read_lora(same).pairs.keys() == read_lora(plain_adapter).pairs.keys()  # patterns that change nothing
    pair = load_file(plain_adapter / "adapter_model.safetensors")
    foreign = changed(plain_adapter, tmp_path / "foreign")
    save_file({k.replace("q_proj", "r_proj"): v for k, v in pair.items()}, foreign / "adapter_model.safetensors")
    half = changed(plain_adapter, tmp_path / "half")
    save_file(dict(list(pair.items())[:-1]), half / "adapter_model.safetensors")
    wide = changed(plain_adapter, tmp_path / "wide", r=4)
    elsewhere = changed(plain_adapter, tmp_path / "elsewhere")
    save_file(pair, elsewhere / "adapter_model.safetensors", {"base": "some-model", "base_sha256": "0" * 64})
    damaged = changed(plain_adapter, tmp_path / "damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"junk")
    bare = changed(plain_adapter, tmp_path / "bare")
    (bare / "adapter_model.safetensors").unlink()
    for adapter, message in [
        (foreign, "is no linear of a decoder layer"),
        (half, "holds half a pair"),
        (wide, "is no half of a LoRA pair of rank 4"),
        (elsewhere, "(sha256 000000000000), but the base here is"),
        (damaged, "cannot be read"),
        (bare, "holds no adapter_model.safetensors"),
        (tmp_path, "is not a PEFT adapter folder"),
    ]:
        code, refused = prge(*export, "--adapter", adapter)
        assert code == 1 and message in refused["error"] and not out.exists(), refused
    code, refused = prge(*export, "--adapter", plain_adapter, "--rank", 4)
    assert code == 1 and "--adapter says what trains" in refused["error"]
    predict = ["predict", program_folder, "a text", "--state"]
    code, refused = prge(*predict, plain_adapter)
    assert code == 1 and f"--adapter {plain_adapter}` makes a program" in refused["error"]
    code, refused = prge(*predict, elsewhere)
    assert code == 1 and "(sha256 000000000000), but the base here is" in refused["error"]
    code, refused = prge("predict", program_folder, "a text", "--device", "cuda")
    assert code == 1 and "give --runtime torch too" in refused["error"]


def test_merging_sums_updates(
    prge: Prge, program_folder: Path, tiny_model: Path, plain_adapter: Path, tmp_path: Path
) -> None:
    program = StepProgram(program_folder)
    for seed in (1, 2):
        save_peft(tmp_path / str(seed), program.manifest, program.frozen(), random_state(program, seed))
    adapters = [tmp_path / "1", tmp_path / "2", plain_adapter]
    weights = [word for weight in (0.5, -2, 1) for word in ("--weight", weight)]
    code, done = prge("merge", *adapters, *weights, "-o", tmp_path / "merged", "--model", tiny_model)
    assert code == 0 and done["adapters"] == 3
    expected = dict(base(tiny_model).named_parameters())
    for adapter, weight in zip(adapters, (0.5, -2.0, 1.0), strict=True):
        config = json.loads((adapter / "adapter_config.json").read_text())
        pairs = load_file(adapter / "adapter_model.safetensors")
        for key in (k for k in pairs if "lora_A" in k):
            name = key.removeprefix("base_model.model.").replace("lora_A.", "")
            update = pairs[key.replace("lora_A", "lora_B")] @ pairs[key] * config["lora_alpha"] / config["r"]
            expected[name] = expected[name].detach() + weight * update
    merged = dict(base(tmp_path / "merged").named_parameters())
    assert merged.keys() == expected.keys()
    for name in merged:
        torch.testing.assert_close(merged[name], expected[name], rtol=0, atol=1e-6)


def test_merging_refuses(
    prge: Prge, program_folder: Path, plain_adapter: Path, make_model: Callable[[Any], Path], tmp_path: Path
) -> None:
    program = StepProgram(program_folder)
    save_peft(tmp_path / "ours", program.manifest, program.frozen(), random_state(program, 1))
    other = make_model(tiny_config(initializer_range=0.15))
    named = changed(plain_adapter, tmp_path / "named", base_model_name_or_path="someone/else")
    dora = changed(plain_adapter, tmp_path / "dora", use_dora=True)
    cases: list[tuple[list[Any], str]] = [
        (["ours", "--weight", 1, "--weight", 2], "2 --weight for 1 adapters"),
        (["ours", "--model", other], "but the base here is"),
        (["ours", named], "name different bases"),
        (["ours", dora], "use_dora is True"),
        ([tmp_path], "not a PEFT adapter folder"),
    ]
    for (first, *rest), message in cases:
        code, refused = prge("merge", tmp_path / first, *rest, "-o", tmp_path / "merged")
        assert code == 1 and message in refused["error"] and not (tmp_path / "merged").exists(), refused
