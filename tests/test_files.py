"""`prge verify`, `prge forget`, and files that are too large or no files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_cli import rewritten
from typer.testing import CliRunner

from prge.cli.app import app
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import template_columns
from prge.examples.read import read_records
from prge.files.seal import SIZE, seal, sealed
from prge.files.typed import parse
from prge.manifest import AdaptedModule, Adapter
from prge.runtime_driver.program.state import load_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import Journal

Prge = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(prge: Prge, program_folder: Path, demo_data: Path, tmp_path: Path) -> Path:
    data = ["--data", demo_data / "test.tsv", "--truncate", "--steps", 3, "--lr", 0.01]
    code, _ = prge("train", program_folder, *data, "-o", tmp_path / "run")
    assert code == 0
    return tmp_path / "run"


def test_verify_says_what_is_whole(prge: Prge, run: Path, program_folder: Path, demo_data: Path) -> None:
    m = StepProgram(program_folder).manifest
    for path, expected in {
        program_folder: {"kind": "program", "trains": m.parameters, "tokenizer": "whole"},
        program_folder / "program.pte": {"kind": "program"},
        program_folder / "tokenizer.json": {"kind": "tokenizer", "tokens": 600},
        run: {"kind": "run", "steps": 3, "torn_bytes": 0, "resumes_from_step": 3},
        run / "log.jsonl": {"kind": "run"},
        run / "adapter": {"kind": "adapter", "rank": 4},
        run / "state.safetensors": {"kind": "state", "numbers": m.state_size, "steps": "3", "checksum": "right"},
        demo_data / "test.tsv": {"kind": "data", "columns": ["label", "text"]},
    }.items():
        code, found = prge("verify", path)
        assert code == 0 and found | expected == found, path


def test_verify_says_what_is_damaged(prge: Prge, run: Path, program_folder: Path, tmp_path: Path) -> None:
    with (run / "log.jsonl").open("ab") as f:
        f.write(b'{"step": 3')
    assert prge("verify", run)[1]["torn_bytes"] == 10
    for name, place in [
        ("log.jsonl", "at byte"),
        ("state.safetensors", "its checksum"),
        ("config.json", "run:"),
    ]:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:99] + b"\0" + content[100:])
        code, message = prge("verify", run)
        assert code == 1 and name in message["error"] and place in message["error"]
        (run / name).write_bytes(content)
    program = tmp_path / "program"
    shutil.copytree(program_folder, program)
    (program / "tokenizer.json").write_text("{}")
    code, message = prge("verify", program)
    assert code == 1 and "not the tokenizer" in message["error"]
    code, message = prge("verify", tmp_path / "none.pte")
    assert code == 1 and "does not exist" in message["error"]


def test_a_program_that_brings_the_runtime_down_is_refused(prge: Prge, program_folder: Path, tmp_path: Path) -> None:
    """An operator's name that is no text ends the process, in the runtime's Python bindings."""
    data = (program_folder / "program.pte").read_bytes()[:-SIZE]
    assert data.count(b"aten::") > 0
    shutil.copy(program_folder / "frozen.pte", tmp_path)
    (tmp_path / "evil.pte").write_bytes(data.replace(b"aten::", b"\xff\xfe\xff\xff::"))
    seal(tmp_path / "evil.pte")
    code, message = prge("verify", tmp_path / "evil.pte")
    assert code == 1 and "crashes the runtime (SIGABRT)" in message["error"]
    lying = rewritten(program_folder, tmp_path / "lying", lambda m: m.update(batch=1))
    code, message = prge("inspect", lying)
    assert code == 1 and "is not what its manifest says: it takes and gives" in message["error"]


def test_a_layout_s_digest_survives_its_json() -> None:
    """Also where a whole number stands for alpha."""
    adapter = Adapter(4, 4, None, (AdaptedModule("q", 0, 8, 8, 0, (4, 8)),))
    read = parse(Adapter, json.loads(json.dumps(asdict(adapter))))
    assert read.digest(b"factors") == adapter.digest(b"factors") != adapter.digest(b"others")


def test_a_seal_tells_every_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(200)))
    assert sealed(file) is None
    seal(file)
    whole = file.read_bytes()
    assert sealed(file) and whole[:-SIZE] == bytes(range(200))
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert not sealed(file)
        file.write_bytes(whole[:at])
        assert not sealed(file)


def test_forget_removes_a_run_and_nothing_else(prge: Prge, run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "program.pte").write_text("not the run's")
    (run / "program").symlink_to(tmp_path / "elsewhere")
    (run / "notes.txt").write_text("mine")
    code, message = prge("forget", run)
    assert code == 1 and "--yes" in message["error"] and (run / "log.jsonl").exists()
    assert CliRunner().invoke(app, ["forget", str(run)], input="n\n").exit_code == 1
    journal = Journal(run / "log.jsonl")
    code, message = prge("forget", run, "--yes")
    assert code == 1 and "in use" in message["error"] and (run / "state.safetensors").exists()
    journal.close()
    code, found = prge("forget", run, "--yes")
    assert code == 0 and found["left"] == ["notes.txt", "program"] and found["files"] == 10
    assert {path.name for path in run.iterdir()} == {"notes.txt", "program"}
    assert (tmp_path / "elsewhere" / "program.pte").read_text() == "not the run's"
    code, message = prge("forget", run, "--yes")
    assert code == 1 and "no run folder" in message["error"]


def test_forget_asks_and_removes_the_folder(run: Path) -> None:
    done = CliRunner().invoke(app, ["forget", str(run)], input="y\n")
    assert done.exit_code == 0 and not run.exists()


def test_what_is_too_large_is_not_read(prge: Prge, run: Path, program_folder: Path, tmp_path: Path) -> None:
    commands: dict[str, list[object]] = {
        "data.jsonl": ["predict", program_folder, "--data"],
        "data.csv": ["verify"],
        "state.safetensors": ["predict", program_folder, "a text", "--state"],
        "tokenizer.json": ["predict", program_folder, "a text", "--tokenizer"],
    }
    for name, command in commands.items():
        with (tmp_path / name).open("wb") as f:
            f.truncate(10**11)  # takes no room
        code, message = prge(*[*command, tmp_path / name])
        assert code == 1 and "holds 100,000,000,000 bytes" in message["error"]
    for name in ("config.json", "log.jsonl", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        content = (run / name).read_bytes()
        os.truncate(run / name, 10**11)
        code, message = prge("verify", run)
        assert code == 1 and "holds 100,000,000,000 bytes" in message["error"], name
        (run / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.safetensors")
    code, message = prge("verify", tmp_path / "pipe.safetensors")
    assert code == 1 and "pipe.safetensors" in message["error"]


def test_a_state_without_a_checksum_is_taken(program_folder: Path, tmp_path: Path) -> None:
    """As other drivers write it; numbers that are not finite are not."""
    m = StepProgram(program_folder).manifest
    state, said = torch.ones(m.state_size), {"adapter_sha256": m.adapter.sha256}
    save_file({"state": state}, tmp_path / "state.safetensors", said)
    assert torch.equal(load_state(tmp_path / "state.safetensors", m), state)
    save_file({"state": state / 0}, tmp_path / "state.safetensors", said)
    with pytest.raises(UserError, match="not finite"):
        load_state(tmp_path / "state.safetensors", m)


@pytest.mark.parametrize("template", [
    "{text:>9999999999}", "{text!r}", "{text.__class__}", "{text[0]}", "{0}", "{}", "{text:{n}}", "{", "}",
])  # fmt: skip
def test_templates_name_columns_alone(template: str) -> None:
    with pytest.raises(UserError, match="template"):
        template_columns(template)


@pytest.mark.parametrize("template", [
    "{{ 9**9**9 }}", "{{ 'x' * 99999999999 }}", "{{ '%99999999999d' % 1 }}", "{{ 'x'.ljust(9999999999) }}",
    "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ messages.append(1) }}", "{{ 1/0 }}",
    "{% include '/etc/passwd' %}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{" + "(" * 3000,
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}",
])  # fmt: skip
def test_chat_templates_are_bounded(template: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        Chat(template).render([{"role": "user", "content": "Hi"}])


def test_a_text_without_end_is_refused(prge: Prge, program_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "a" * 200_000 + ",today\n")
    assert len(read_records(tmp_path / "data.csv")[0][1]["text"]) == 200_000
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "a" * (33 << 20)}))
    code, message = prge("predict", program_folder, "--data", tmp_path / "data.jsonl")
    assert code == 1 and "line 1: a text of 34,603,014 bytes" in message["error"]


@settings(max_examples=300, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))))  # fmt: skip
@example("\ud800")
def test_any_json_is_records_or_refused(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(document))
    try:
        records = read_records(file)
    except UserError as e:
        assert str(file) in str(e)
    else:
        json.dumps([row for _, row in records], ensure_ascii=False).encode()


@pytest.mark.parametrize("content", [
    b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b'{"text": "\\ud800"}', b'{"text": "\xff"}', b"\0" * 100, b"",
    b'"' + b"a" * 1_000_000, b"a," * 200_000, b"\xef\xbb\xbf", b"\r\r\r",
], ids=lambda content: ascii(content[:8]))  # fmt: skip
@pytest.mark.parametrize("kind", [".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet"])
def test_odd_files_of_data(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / f"data{kind}").write_bytes(content)
    try:
        assert read_records(tmp_path / f"data{kind}")
    except UserError as e:
        assert f"data{kind}" in str(e)
