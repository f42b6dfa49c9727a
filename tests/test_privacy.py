"""What the driver keeps to itself: no socket, nothing unpickled, and no text of the user's in what a run leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config

from prge.errors import UserError
from prge.models.checkpoints import load_checkpoint

# Every Python process under it, and so the one that `prge verify` starts, dies at the first socket or pickle.
GUARD = """
import os, sys
def guard(event, arguments):
    if event.startswith(("socket.", "pickle.", "urllib.", "http.")):
        os.write(2, f"GUARD {event} {arguments}".encode())
        os._exit(99)
sys.addaudithook(guard)
"""
COMMANDS = """
import json, os, pickle, _pickle, socket, _socket, sys
import matplotlib.pyplot, torch
from prge.cli import app as cli
class Refused:
    def __init__(self, *arguments, **named):
        os.write(2, b"GUARD " + repr(arguments).encode())
        os._exit(98)

for module, names in (
    (socket, "socket create_connection getaddrinfo socketpair"), (_socket, "socket getaddrinfo socketpair"),
    (pickle, "load loads Unpickler"), (_pickle, "load loads Unpickler"), (torch, "load"), (torch.serialization, "load"),
):
    for name in names.split():
        setattr(module, name, Refused)
for command in json.loads(sys.argv[1]):
    sys.argv = ["prge", *command]
    try:
        cli.main()
    except SystemExit as e:
        assert not e.code, command
    open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [name for name in open_files if "socket:" in name], open_files
print("all done")
"""
MARKS = ("Zanzibar", "quokkas", "Æsir")


def test_no_socket_no_pickle_and_no_text(weights_program: Path, export: Callable[..., Path], tmp_path: Path) -> None:
    generator = export(context=64)
    lines = [f"{mark} {i} {mark.lower()}\t{('today', 'later')[i % 2]}\n" for i in range(12) for mark in MARKS]
    (tmp_path / "data.tsv").write_text("".join(lines))
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "commands.py").write_text(COMMANDS)
    program, data, run = str(weights_program), ["--data", "data.tsv", "--truncate"], ["--state", "run"]
    silent = [
        ["train", program, *data, "--steps", "3", "-o", "run"],
        ["train", program, *data, "--steps", "2", "--lr", "0.01", "--from", "run", "-o", "again", "--json"],
        ["eval", program, *data, *run],
        ["eval", program, *data, "--state", "run/adapter"],
        ["replay", "run", "-o", "replayed"],
        ["compare", "run", "again", "-o", "both.png"],
        ["verify", "run"],
        ["verify", program],
        ["verify", "data.tsv"],
        ["calibrate", program, *data, "-o", "calibrated.png"],
    ]
    speaking = [
        ["predict", program, MARKS[0], *run],
        ["generate", str(generator), MARKS[0], "--max-new-tokens", "3"],
    ]
    forgetting = [["forget", "again", "--yes"]]

    def said(commands: list[list[str]]) -> str:
        command = [sys.executable, "commands.py", json.dumps(commands)]
        paths = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        assert done.returncode == 0 and "all done" in done.stdout, done.stderr[-3000:]
        return done.stdout + done.stderr

    printed = said(silent)
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "data.tsv"}
    assert {"log.jsonl", "curves.png", "state.safetensors", "adapter_config.json"} <= {path.name for path in left}
    for path, content in {**left, tmp_path / "printed": printed.encode()}.items():
        for found in (content, *png_texts(content)):
            for mark in MARKS:
                assert mark.lower().encode() not in found.lower(), path
                assert mark.encode("utf-16-le") not in found, path
    said(speaking + forgetting)
    assert not (tmp_path / "again").exists() and (tmp_path / "run").exists()


def png_texts(content: bytes) -> list[bytes]:
    """What stands in a PNG's compressed text chunks."""
    found = re.finditer(rb"(?:zTXt|iTXt)[^\0]+\0.*?(x[\x01\x9c\xda].*)", content, re.DOTALL)
    return [zlib.decompressobj().decompress(match[1]) for match in found if content.startswith(b"\x89PNG")]


def test_the_guard_sees_both(tmp_path: Path) -> None:
    for evil in ("import socket; socket.socket()", "import pickle; pickle.loads(pickle.dumps(print))"):
        done = subprocess.run([sys.executable, "-c", GUARD + evil], capture_output=True, text=True)
        assert done.returncode == 99 and "GUARD" in done.stderr


def test_code_of_a_checkpoint_is_never_executed(make_model: Callable[[Any], Path]) -> None:
    for model_type in ("llama", "evil"):
        folder = make_model(tiny_config())
        evil = f"from pathlib import Path\nPath({str(folder / 'ran')!r}).write_text('')\n"
        evil += "from transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
        (folder / "evil.py").write_text(evil)
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        if model_type == "evil":
            with pytest.raises(UserError, match="cannot be loaded"):
                load_checkpoint(str(folder))
        else:
            load_checkpoint(str(folder))
        assert not (folder / "ran").exists()


def test_sources_ask_for_no_code_and_no_archive() -> None:
    import prge

    sources = {path: path.read_text() for path in Path(prge.__path__[0]).resolve().glob("**/*.py")}
    for folder in ("models", "export", "runtime_driver"):
        sources |= {path: path.read_text() for path in (Path(prge.__path__[0]) / folder).glob("**/*.py")}
    assert len(sources) > 60
    for path, text in sources.items():
        assert not re.search(r"trust_remote_code\s*=\s*(?!False)", text), path
        assert not re.search(r"tarfile|extractall|unpack_archive|\bpickle\.|import pickle|torch\.load\(", text), path
