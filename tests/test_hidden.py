"""The frozen part and its hidden states, computed once: right, the same in every use, never a wrong one."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEMPLATE, tiny_config
from edits import byte_edits, resealed
from hypothesis import HealthCheck, Phase, given, settings
from survivor import begin, resume
from test_families import config
from test_survival import Fault, outcome
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import prge as library
from prge.commands.open import read_state
from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.large import LargeTensor, write_large
from prge.manifest import FROZEN_FILE
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HIDDEN_FILES, SHARED_NAME, HiddenStates, Keeping
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.stopping import Limits
from prge.runtime_driver.program.frozen import FrozenProgram
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import CONFIG_FILE, LOG_FILE
from prge.runtime_driver.run.journal import read_journal

THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))
Prge = Callable[..., tuple[int, Any]]

FISHER = AdapterConfig(rank=4, alpha=8.0, subspace="fisher", directions=3)
# What a program may be: its model, and what is changed in its export.
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "deeper": ("deeper", {"adapter": AdapterConfig(4, 8.0, layers=slice(3, None), subspace="svd")}),
    "exact": ("llama", {"step": StepConfig(1, 2, "exact")}),
    "perturbed weights": ("llama", {"step": StepConfig(2, 3, "weights", "sgd")}),
    "loops on the host": ("llama", {"step": StepConfig(2, 2, "weights", "sgd", outer=False, inner=False)}),
    "language": ("llama", {"label_words": (), "target": " {label}", "max_targets": 4}),
    "all layers": ("llama", {"adapter": AdapterConfig(4, 8.0, layers=slice(None), subspace="svd")}),
    "windows": ("gemma2", {}),
    "learned positions": ("gpt2", {}),
    "bert": ("bert", {"template": TEMPLATE + "{mask}"}),
    "roberta, all layers": (
        "roberta",
        {"template": TEMPLATE + "{mask}", "adapter": AdapterConfig(4, 8.0, layers=slice(None), subspace="svd")},
    ),
}
ENCODERS = ("bert", "roberta")


@pytest.fixture(scope="module")
def made(
    export: Callable[..., Path], make_model: Callable[..., Path], tiny_model: Path, encoder_tokenizer_folder: Path
) -> Callable[[str], tuple[Path, Path]]:
    """The model and the program of a name."""
    models: dict[str, Path] = {"llama": tiny_model}

    def make(name: str) -> tuple[Path, Path]:
        model, changes = PROGRAMS[name]
        if model not in models:
            sizes = tiny_config(num_hidden_layers=5) if model == "deeper" else config(model)
            encoder = (AutoModelForMaskedLM, encoder_tokenizer_folder) if model in ENCODERS else ()
            models[model] = make_model(sizes, *encoder)
        return models[model], export(model=models[model], **changes)

    return make


def some(program: StepProgram, count: int, seed: int = 0) -> list[Example]:
    """Examples of different lengths, in no order of them; some rows twice, and some that begin as others do."""
    g, m = random.Random(seed), program.manifest
    examples: list[Example] = []
    for i in range(count):
        row = [g.randrange(4, 600) for _ in range(g.choice([3, 5, 8, 13, 21, m.max_tokens]))]
        if i % 5 == 4:
            row = [*examples[i - 2].tokens][: i % 7 + 3]
        if m.mask_token is not None:
            row[-1] = m.mask_token
        targets = 0 if m.labels else min(2, len(row) - 1)
        examples.append(Example(tuple(row), i % 2, targets))
    return [*examples, examples[0]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_hidden_states_are_those_of_transformers(
    name: str, made: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """At the first adapted layer, whatever the rows are padded to when they are computed and read."""
    model, folder = made(name)
    program = StepProgram(folder)
    m, examples = program.manifest, some(program, 11)
    encoder = m.mask_token is not None
    hf = (AutoModelForMaskedLM if encoder else AutoModelForCausalLM).from_pretrained(model, dtype=torch.float32).eval()
    assert m.first_layer == {"deeper": 3, "all layers": 0, "roberta, all layers": 0}.get(name, 1)
    done: list[tuple[int, int]] = []
    below = FrozenProgram(folder / FROZEN_FILE)
    program.keep(tmp_path / HIDDEN_FILE, examples, lambda now, total: done.append((now, total)))
    distinct = {e.tokens for e in examples}
    assert done[-1] == (sum(map(len, distinct)),) * 2 and sorted(done) == done
    for longer in (0, 1, 9):
        for e in examples:
            length = min(len(e.tokens) + longer, m.max_tokens)
            row = torch.full((1, length), m.pad_token)
            row[0, : len(e.tokens)] = torch.tensor(e.tokens)
            with torch.no_grad():
                right = hf(torch.tensor([e.tokens]), output_hidden_states=True).hidden_states[m.first_layer][0]
            found = program.states(row)[0]
            torch.testing.assert_close(found[: len(right)], right, rtol=1e-5, atol=1e-5)
            assert not found[len(right) :].any()
            if length >= m.min_tokens:
                torch.testing.assert_close(below.states(row)[0, : len(right)], right, rtol=1e-5, atol=1e-5)


def test_rows_that_end_in_padding_have_their_states(program_folder: Path, tmp_path: Path) -> None:
    """A text may end in the token that pads. Its row is looked up without it, and all its states are there."""
    program = StepProgram(program_folder)
    pad = program.manifest.pad_token
    rows = [(5, 6, pad), (5, 6), (5, 6, pad, pad, pad), (pad, pad), (7, pad, 8)]
    below = FrozenProgram(program_folder / FROZEN_FILE)
    program.keep(tmp_path / HIDDEN_FILE, [Example(row, 0) for row in rows])
    for row in rows:
        for more in (0, 2):
            tokens = torch.tensor([[*row, *[pad] * more]])
            found = program.states(tokens)
            torch.testing.assert_close(found[:, : len(row)], below.states(tokens)[:, : len(row)], rtol=0, atol=1e-5)
    shared, whole = program.states(torch.tensor([[5, 6, pad, pad, pad, pad]]))[0], 5
    assert shared[:whole].any(dim=1).all() and not shared[whole:].any()


@pytest.mark.parametrize(
    "name", ["llama", "exact", "perturbed weights", "loops on the host", "language", "bert", "all layers"]
)
def test_losses_are_the_same_with_and_without(
    name: str, made: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Of steps and of evaluations, after the frozen part has been removed even from the disk."""
    shutil.copytree(made(name)[1], tmp_path / "program")
    without, program = StepProgram(tmp_path / "program"), StepProgram(tmp_path / "program")
    m, examples = program.manifest, some(program, 11)
    batches = [examples[i : i + m.batch] for i in (0, 3, 6)]
    states, stepped = [without.initial_state()], []
    for seed, batch in enumerate(batches):
        state, losses = without.step(states[-1], *collate(batch, m), seed, 0.02, 0.02)
        states.append(state)
        stepped.append(losses)
    evaluated = evaluate(without, states[-1], examples).losses
    program.keep(tmp_path / HIDDEN_FILE, examples)
    assert program._frozen_part is None  # it is unloaded
    (tmp_path / "program" / FROZEN_FILE).unlink()
    for seed, (batch, state, losses) in enumerate(zip(batches, states, stepped, strict=False)):
        _, found = program.step(state, *collate(batch, m), seed, 0.02, 0.02)
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(evaluate(program, states[-1], examples).losses, evaluated, rtol=0, atol=1e-5)
    unknown = collate([Example((9, 9, 9, m.mask_token or 9), 0, 0 if m.labels else 1)] * m.batch, m)
    with pytest.raises(UserError, match=r"frozen\.pte does not exist; make it with `prge export`"):
        program.step(states[-1], *unknown, 1, 0.02, 0.02)


def test_choices_are_kept_candidate_by_candidate(
    prge: Prge, export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = AdapterConfig(4, 8.0, subspace="svd")
    changes = {"label_words": (), "template": "{text}:", "target": " {choice}", "choices": "choices", "max_targets": 8}
    program = export(adapter=adapter, **changes)
    rows = [{"text": f"number {i}", "choices": ["call me", "later"], "label": "AB"[i % 2]} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("train", program, "--data", tmp_path / "data.jsonl", "--lr", 0.01, "--steps", 4, "-o")
    counted = count_rows(monkeypatch)
    assert prge(*common, tmp_path / "kept")[0] == 0
    assert sum(counted) == 2 * len(rows)  # every text with either answer, and no row of its own
    assert prge(*common, tmp_path / "not", "--cache", "off")[0] == 0
    same_losses(tmp_path / "kept", tmp_path / "not")
    held = LargeTensor(tmp_path / "kept" / HIDDEN_FILE, "hidden", "hidden states")
    loaded = StepProgram(program)
    texts = loaded.examples(tmp_path / "data.jsonl")
    assert held.shape == (sum(len(row.tokens) for e in texts for row in e.candidates), 32)


def count_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the frozen part computes."""
    counted: list[int] = []
    states = FrozenProgram.states

    def counting(self: FrozenProgram, tokens: torch.Tensor) -> torch.Tensor:
        counted.append(len(tokens))
        return states(self, tokens)

    monkeypatch.setattr(FrozenProgram, "states", counting)
    return counted


def same_losses(a: Path, b: Path) -> None:
    """Two runs agree as float32 does, and exactly where that was exact."""
    first, second = (read_journal(run / LOG_FILE)[0] for run in (a, b))
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
        for part in ("dev", "before"):
            assert one.get(part) == (pytest.approx(other[part], abs=1e-5) if part in other else None)


@pytest.fixture(scope="module")
def kept(program_folder: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of twelve steps, with its hidden states."""
    run = tmp_path_factory.mktemp("kept") / "run"
    assert begin(program_folder, demo_data, run, 12, eval_every=6)["completed"]
    assert (run / HIDDEN_FILE).is_file() and not (run / HIDDEN_FILES[1]).exists()
    return run


def cache_of(run: Path) -> Any:
    return json.loads((run / CONFIG_FILE).read_text())["data"]["cache"]


def test_runs_with_and_without_and_with_too_little_room(
    kept: Path, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = (kept / HIDDEN_FILE).stat().st_size
    budgets = {"off": Keeping.parse("off"), "small": Keeping(budget=needed - 1000.0), "enough": Keeping(budget=needed)}
    for name, keeping in budgets.items():
        assert begin(program_folder, demo_data, tmp_path / name, 12, eval_every=6, cache=keeping)["completed"]
        same_losses(tmp_path / name, kept)
        assert cache_of(tmp_path / name) == (HIDDEN_FILE if name == "enough" else None)
        assert (tmp_path / name / HIDDEN_FILE).exists() == (name == "enough")
    assert outcome(tmp_path / "off") == outcome(tmp_path / "small")
    assert outcome(tmp_path / "enough") == outcome(kept)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * needed))
    begin(program_folder, demo_data, tmp_path / "little", 1, eval_every=0)
    assert cache_of(tmp_path / "little") is None  # a quarter of the free space is not enough
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * needed))
    begin(program_folder, demo_data, tmp_path / "more", 1, eval_every=0)
    assert cache_of(tmp_path / "more") == HIDDEN_FILE


@pytest.mark.parametrize("text", ["2GB", "1.5mb", "off", "states", "/tmp/x", "9 MB", "12"])
def test_where_to_keep_is_read(text: str) -> None:
    found = Keeping.parse(text)
    folder = None if text in ("2GB", "1.5mb", "off", "9 MB") else Path(text)
    assert found == Keeping(folder, {"2GB": 2e9, "1.5mb": 1.5e6, "off": 0.0, "9 MB": 9e6}.get(text))


HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0\0\0\0",
    "a bit turned": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of another program": lambda content: resealed(re.sub(rb'(?<="frozen_sha256":")....', b"0000", content, count=1)),
    "of other examples": lambda content: resealed(re.sub(rb'(?<="examples":")....', b"0000", content, count=1)),
    "of another version": lambda content: resealed(content.replace(b'"hidden":"1"', b'"hidden":"2"', 1)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_resume_makes_them_again_to_the_same_bits(
    harm: str, kept: Path, program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped = begin(program_folder, demo_data, run, 12, eval_every=6, limits=Limits(max_minutes=0.0))
    assert stopped["steps"] == 1
    file, whole = run / HIDDEN_FILE, (kept / HIDDEN_FILE).read_bytes()
    assert file.read_bytes() == whole
    changed = HARMS[harm](whole)
    file.unlink() if changed is None else file.write_bytes(changed)
    assert changed != whole
    assert resume(run)["completed"] and outcome(run) == outcome(kept)
    assert file.read_bytes() == whole


def test_a_whole_file_is_not_made_again(
    kept: Path, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    begin(program_folder, demo_data, run, 12, eval_every=6, limits=Limits(max_minutes=0.0))
    made = (run / HIDDEN_FILE).stat().st_mtime_ns
    counted = count_rows(monkeypatch)
    assert resume(run)["completed"] and outcome(run) == outcome(kept)
    assert not counted and (run / HIDDEN_FILE).stat().st_mtime_ns == made


def test_runs_share_a_folder(
    prge: Prge, program_folder: Path, weights_program: Path, demo_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The second computes nothing. Another program and other examples have files of their own; `forget` takes one."""
    monkeypatch.chdir(tmp_path)
    shared, settings = tmp_path / "shared", {"eval_every": 0, "cache": Keeping.parse("shared")}
    begin(program_folder, demo_data, tmp_path / "a", 3, **settings)
    (file,) = shared.iterdir()
    assert SHARED_NAME.fullmatch(file.name) and cache_of(tmp_path / "a") == str(file)
    made, counted = file.stat().st_mtime_ns, count_rows(monkeypatch)
    begin(program_folder, demo_data, tmp_path / "b", 3, **settings)
    assert list(shared.iterdir()) == [file] and file.stat().st_mtime_ns == made and not counted
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert not any((tmp_path / run / HIDDEN_FILE).exists() for run in "ab")
    begin(weights_program, demo_data, tmp_path / "c", 1, **settings)
    assert len(list(shared.iterdir())) == 2
    code, _ = prge("train", program_folder, "--data", demo_data / "test.tsv", "--truncate", "--steps", 1, "--lr", 0.01,
                   "--cache", shared, "-o", tmp_path / "d")  # fmt: skip
    others = {path for path in shared.iterdir() if path != file}
    assert code == 0 and others and file.stat().st_mtime_ns == made
    kinds = ("hidden.safetensors", "notes.txt", "hidden-0-0.safetensors", "hidden-00000000-00000000.safetensors")
    for name in kinds:
        (shared / name).write_text("mine")
    partial = file.with_suffix(".partial")
    partial.write_text("what a kill left")
    code, found = prge("verify", tmp_path / "a")
    assert code == 0 and found["hidden_states"]["width"] == 32
    code, found = prge("forget", tmp_path / "a", "--yes")
    assert code == 0 and not (tmp_path / "a").exists() and "left" not in found
    assert set(shared.iterdir()) == others | {shared / name for name in kinds}
    assert resume(tmp_path / "b")["completed"] and file.is_file()  # which makes it again
    file.unlink()
    assert prge("forget", tmp_path / "b", "--yes")[0] == 0 and set(shared.iterdir()) >= others


@pytest.mark.parametrize("fails", [False, True])
def test_two_that_write_one_file_do_so_one_after_the_other(fails: bool, tmp_path: Path) -> None:
    """The second waits, and takes what the first has made. If that failed, it writes the file itself."""
    file, wrote = tmp_path / HIDDEN_FILE, list[str]()

    def write(name: str, value: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        def fill(put: Callable[[int, Any], None]) -> None:
            wrote.append(name)
            meanwhile()
            put(0, np.full((3, 2), value, dtype=np.float32))

        write_large(file, "hidden", (3, 2), {}, fill)

    second = threading.Thread(target=write, args=("second", 2.0))

    def begin_the_second() -> None:
        second.start()
        second.join(0.2)
        assert second.is_alive() and wrote == ["first"]
        if fails:
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError) if fails else nullcontext():
        write("first", 1.0, begin_the_second)
    second.join(60)
    assert wrote == ["first", "second"] if fails else wrote == ["first"]
    found = np.empty((3, 2), dtype=np.float32)
    LargeTensor(file, "hidden", "it").read(0, found)
    assert (found == (2.0 if fails else 1.0)).all() and list(tmp_path.iterdir()) == [file]


def test_forget_removes_a_run_s_own(prge: Prge, kept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    (run / HIDDEN_FILES[1]).write_bytes(b"what a kill left")
    (run / "hidden-00000000-00000000.safetensors").write_bytes(b"mine")
    code, found = prge("forget", run, "--yes")
    assert code == 0 and found["left"] == ["hidden-00000000-00000000.safetensors"]
    assert [path.name for path in run.iterdir()] == found["left"]


@pytest.mark.parametrize("cache", [
    "other.safetensors", "../hidden.safetensors", "/etc/passwd", "hidden-00000000-00000000.safetensors", 7, True, ["x"],
    "x/hidden-00000000-00000000.safetensors", "/tmp/hidden-0000000G-00000000.safetensors", "/tmp/hidden.safetensors",
    "/tmp/hidden-00000000-00000000.safetensors/../x", "/tmp/a\0/hidden-00000000-00000000.safetensors", {}, "",
    0, False,
])  # fmt: skip
def test_a_run_names_no_other_file(prge: Prge, kept: Path, tmp_path: Path, cache: Any) -> None:
    """Else a run from elsewhere would write, or remove, any file."""
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    described = json.loads((run / CONFIG_FILE).read_text())
    described["data"]["cache"] = cache
    (run / CONFIG_FILE).write_text(json.dumps(described))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for command in (["train", "--resume", run], ["replay", run, "-o", tmp_path / "out"], ["verify", run],
                    ["forget", run, "--yes"]):  # fmt: skip
        code, refused = prge(*command)
        assert code == 1 and refused["error"].startswith(f"{run / CONFIG_FILE} is not the description of a run: ")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("cache", ["4GB", "off"])
def test_a_missing_or_wrong_frozen_part_is_one_sentence(
    cache: str, prge: Prge, program_folder: Path, made: Callable[[str], tuple[Path, Path]], demo_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """And nothing stays behind."""
    program, new = tmp_path / "program", tmp_path / "new"
    shutil.copytree(program_folder, program)
    file, whole = program / FROZEN_FILE, (program / FROZEN_FILE).read_bytes()
    settings = ("train", program, "--data", demo_data / "train.tsv", "--truncate", "--lr", 0.01, "--steps", 3)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content, message in (
        (None, f"{file} does not exist; make it with `prge export`"),
        ((made("all layers")[1] / FROZEN_FILE).read_bytes(), f"{file} is the frozen part of another program than "),
        ((program / "program.pte").read_bytes(), f"{file} is a fine-tuning step; this command takes the frozen.pte"),
        (whole[: len(whole) // 2], f"{file} is truncated"),
        (bytes(changed), f"{file} is damaged"),
        (b"", f"{file} is not an ExecuTorch program"),
    ):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        code, refused = prge(*settings, "--cache", cache, "-o", new)
        assert code == 1 and refused["error"].startswith(message) and "\n" not in refused["error"], refused
        assert not new.exists()
        code, refused = prge("predict", program, "a text")
        assert code == 1 and refused["error"].startswith(message)
        file.write_bytes(whole)
    assert prge(*settings, "--cache", cache, "-o", new)[0] == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("shared", [False, True])
def test_a_full_disk_leaves_nothing(
    number: int, shared: bool, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at every write and rename of the file, and where its space is taken."""
    folder = tmp_path / "folder"
    run, place = folder / "run", folder / ("shared" if shared else "run")
    settings: dict[str, Any] = {"eval_every": 0, "cache": Keeping(place) if shared else None}

    def refused() -> None:
        with pytest.raises(UserError, match=re.escape(os.strerror(number))) as error:
            begin(program_folder, demo_data, run, 1, **settings)
        assert str(place) in str(error.value) and "cannot be written" in str(error.value)
        assert ".partial" not in str(error.value) and "\n" not in str(error.value)
        assert not run.exists() and not (shared and any(place.iterdir()))

    def no_space(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        refused()
    program = StepProgram(program_folder)
    rows = {row.tokens for e in program_examples(program, demo_data) for row in e.rows}
    writes = 1 + len(rows) + 1 + 2  # the header, the rows, the checksum; written through, and renamed
    for at in [1, 2, 3, *range(4, writes - 4, 1 if THOROUGH else 61), *range(writes - 3, writes + 1)]:
        with monkeypatch.context() as patch:
            Fault(place, at, number, patch)
            refused()
    begin(program_folder, demo_data, run, 1, **settings)


def program_examples(program: StepProgram, data: Path) -> Sequence[Example]:
    """Those of `begin`."""
    program.truncate = True
    return [*program.examples(data / "train.tsv"), *program.examples(data / "test.tsv")]


@pytest.fixture(scope="module")
def small(program_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StepProgram, list[Example], bytes]:
    """A program, a few examples, and the content of their file."""
    program = StepProgram(program_folder)
    examples = [Example(row, 0) for row in ((5, 6, 7), (8, 9), (5, 6, 7, 8), (9,))]
    file = tmp_path_factory.mktemp("small") / HIDDEN_FILE
    program.keep(file, examples)
    program.hidden = None
    return program, examples, file.read_bytes()


def taken(path: Path, small: tuple[StepProgram, list[Example], bytes]) -> bool:
    """Whether a file is taken for the hidden states of the examples; if not, that is said in one sentence."""
    try:
        HiddenStates(path, small[0].manifest, small[1])
    except UserError as e:
        assert str(e).startswith(f"{path} ") and "\n" not in str(e)
        return False
    return True


def test_every_prefix_is_refused(small: tuple[StepProgram, list[Example], bytes], tmp_path: Path) -> None:
    file, content = tmp_path / HIDDEN_FILE, small[2]
    end = 8 + int.from_bytes(content[:8], "little")
    for size in [*range(end + 9), *range(end + 9, len(content), 1 if THOROUGH else 37), len(content) - 1]:
        file.write_bytes(content[:size])
        assert not taken(file, small), size
        file.write_bytes(resealed(content[:size]))
        assert not taken(file, small), size
    file.write_bytes(content)
    assert taken(file, small)


def test_every_byte_of_the_header_counts(small: tuple[StepProgram, list[Example], bytes], tmp_path: Path) -> None:
    """Under a checksum that is right again, too: the header is the one that would be written, or it is another file."""
    file, content = tmp_path / HIDDEN_FILE, small[2]
    end = 8 + int.from_bytes(content[:8], "little")
    digits = range(content.index(b'"crc":"') + 7, content.index(b'"crc":"') + 16)  # and the quote, which it restores
    for at in range(end):
        for new in (content[at] ^ 1, content[at] ^ 128, 32, 48, 0):
            changed = bytearray(content)
            changed[at] = new
            file.write_bytes(changed)
            assert taken(file, small) == (changed == content), (at, new)
            if at not in digits:
                file.write_bytes(resealed(bytes(changed)))
                assert taken(file, small) == (changed == content), (at, new)
    for at in range(end, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        assert not taken(file, small), at


def lying(content: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with a header of other fields, under a checksum that is right."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    changed = edit(header)
    text = (changed if isinstance(changed, str) else json.dumps(header, separators=(",", ":"))).encode()
    text += b" " * (-len(text) % 8)
    return resealed(len(text).to_bytes(8, "little") + text + content[end:])


def tensor(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["hidden"].update(fields)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "float16": tensor(dtype="F16"),
    "int32": tensor(dtype="I32"),
    "no dtype": lambda header: header["hidden"].pop("dtype"),
    "offsets behind": tensor(data_offsets=[4, 1284]),
    "offsets that end early": tensor(data_offsets=[0, 4]),
    "offsets of other types": tensor(data_offsets=[0.0, "x"]),
    "no offsets": lambda header: header["hidden"].pop("data_offsets"),
    "a shape turned": lambda header: tensor(shape=header["hidden"]["shape"][::-1])(header),
    "a negative shape": lambda header: tensor(shape=[-size for size in header["hidden"]["shape"]])(header),
    "a shape of one": tensor(shape=[320]),
    "a shape of three": tensor(shape=[10, 32, 1]),
    "a shape of truths": tensor(shape=[True, True]),
    "a shape too large": tensor(shape=[2**62, 2**62]),
    "another field": tensor(more=1),
    "a tensor beside": lambda header: header.update(other={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    "another name": lambda header: header.update(other=header.pop("hidden")),
    "another order": lambda header: header.update(__metadata__=header.pop("__metadata__")),
    "metadata in a list": lambda header: header.update(__metadata__=[header["__metadata__"]]),
    "metadata of numbers": lambda header: header["__metadata__"].update(hidden=1),
    "no metadata": lambda header: '{"x":{"crc":"00000000"},"hidden":' + json.dumps(header["hidden"]) + "}",
    "more metadata": lambda header: header["__metadata__"].update(more="1"),
    "a list": lambda header: '["crc",{"crc":"00000000"}]',
    "not json": lambda header: '{"crc":"00000000"',
    "spaces": lambda header: json.dumps(header).replace('"crc": ', '"crc":'),
    "twice": lambda header: json.dumps(header, separators=(",", ":"))[:-1] + ',"hidden":' + json.dumps(
        header["hidden"], separators=(",", ":")) + "}",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(
    lie: str, prge: Prge, small: tuple[StepProgram, list[Example], bytes], tmp_path: Path
) -> None:
    file = tmp_path / HIDDEN_FILE
    file.write_bytes(lying(small[2], LIES[lie]))
    assert not taken(file, small)
    if lie not in ("more metadata", "a shape turned"):  # as a file of another version or program may be
        code, refused = prge("verify", file)
        assert code == 1 and refused["error"].startswith(f"{file} is not a file of hidden states: ")
    file.write_bytes(lying(small[2], lambda header: None))
    assert taken(file, small) and file.read_bytes() == small[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("mutated") / HIDDEN_FILE


@settings(
    max_examples=2000 if THOROUGH else 60, deadline=None, phases=(Phase.explicit, Phase.generate),
    derandomize=not THOROUGH, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(edit=byte_edits())
def test_what_is_not_whole_is_made_again(
    place: Path, small: tuple[StepProgram, list[Example], bytes], edit: Callable[[bytes], bytes]
) -> None:
    """Whatever was done to the file, the same states come out of it, and the same file is there again."""
    program, examples, content = small
    place.write_bytes(edit(content))
    program.keep(place, examples)
    assert place.read_bytes() == content and program._frozen_part is None
    rows, _ = collate(examples, program.manifest)
    found, program.hidden = program.states(rows), None
    expected = FrozenProgram(program.path.parent / FROZEN_FILE).states(rows)
    for row, one, other in zip(examples, found, expected, strict=True):
        torch.testing.assert_close(one[: len(row.tokens)], other[: len(row.tokens)], rtol=0, atol=1e-5)
    assert [path.name for path in place.parent.iterdir()] == [HIDDEN_FILE]


def test_a_file_that_is_cut_off_while_in_use_is_said(
    small: tuple[StepProgram, list[Example], bytes], tmp_path: Path
) -> None:
    """It is read, not mapped: a mapped one would end the process."""
    program, examples, content = small
    file = tmp_path / HIDDEN_FILE
    file.write_bytes(content)
    program.keep(file, examples)
    os.truncate(file, len(content) // 2)
    with pytest.raises(UserError, match="was cut off while it was in use"):
        program.states(collate(examples, program.manifest)[0])
    program.hidden = None


def test_replay_calibrate_and_the_library_compute_once(
    prge: Prge, kept: Path, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    counted = count_rows(monkeypatch)
    assert prge("replay", run, "-o", tmp_path / "replayed")[0] == 0 and not counted
    (run / HIDDEN_FILE).unlink()
    assert prge("replay", run, "-o", tmp_path / "again")[0] == 0
    program = StepProgram(program_folder)
    rows = {row.tokens for e in program_examples(program, demo_data) for row in e.rows}
    assert sum(counted) == len(rows) and not (run / HIDDEN_FILE).exists()
    for name in ("replayed", "again"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "state.safetensors",
            "best.safetensors",
            "adapter",
        }
    assert (tmp_path / "replayed" / "state.safetensors").read_bytes() == (
        tmp_path / "again" / "state.safetensors"
    ).read_bytes()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    counted.clear()
    data = ("--data", demo_data / "test.tsv", "--truncate")
    assert prge("calibrate", program_folder, *data)[0] == 0
    texts = program.examples(demo_data / "test.tsv")
    assert sum(counted) == len({e.tokens for e in texts}) and not list(temporary.iterdir())
    counted.clear()
    during = []
    for _ in library.train(program, texts, steps=3, lr=0.01):
        during += [path.name for path in temporary.rglob("*") if path.is_file()]
    assert sum(counted) == len({e.tokens for e in texts})
    assert during == [HIDDEN_FILE] * 3 and not list(temporary.iterdir()) and program.hidden is None
    code, found = prge("eval", program_folder, *data, "--state", run)
    assert code == 0 and found["loss"] == pytest.approx(
        evaluate(program, read_state(program, run), texts).loss, abs=1e-5
    )


def test_verify_and_inspect_know_the_two_parts(prge: Prge, kept: Path, program_folder: Path, tmp_path: Path) -> None:
    program = StepProgram(program_folder)
    file = kept / HIDDEN_FILE
    tokens = (file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little")) // (4 * 32)
    described = {"kind": "hidden states", "tokens": tokens, "width": 32}
    assert prge("verify", file) == (0, described)
    code, found = prge("verify", kept)
    assert code == 0 and found["hidden_states"] == described
    shared = tmp_path / "hidden-01234567-89abcdef.safetensors"
    shutil.copy(file, shared)
    assert prge("verify", shared) == (0, described)
    frozen = program_folder / FROZEN_FILE
    expected = {"kind": "frozen part", "model": program.manifest.model, "bytes": frozen.stat().st_size, "layers": 1}
    assert prge("verify", frozen) == (0, expected)
    code, found = prge("inspect", program_folder)
    assert code == 0 and found["frozen_bytes"] == frozen.stat().st_size and found["first_layer"] == 1
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    content = bytearray((run / HIDDEN_FILE).read_bytes())
    content[-5] ^= 1
    (run / HIDDEN_FILE).write_bytes(content)
    for path in (run, run / HIDDEN_FILE):
        code, refused = prge("verify", path)
        assert code == 1 and refused["error"].startswith(f"{run / HIDDEN_FILE} is damaged: its checksum")
    (run / HIDDEN_FILE).unlink()
    code, found = prge("verify", run)
    assert code == 0 and "hidden_states" not in found
    other = tmp_path / FROZEN_FILE
    other.write_bytes(frozen.read_bytes()[:-1])
    code, refused = prge("verify", other)
    assert code == 1 and refused["error"].startswith(f"{other} is not a program made by prge, or its end was cut off")
