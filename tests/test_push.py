"""`prge push`, to a stand-in for the hub that takes what huggingface_hub sends."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest
from peft import PeftModel
from safetensors.torch import load
from transformers import AutoModelForCausalLM

from prge.runtime_driver.program.state import save_peft
from prge.runtime_driver.program.step import StepProgram

TOKEN = "hf_of_nobody"


class Hub(ThreadingHTTPServer):
    """At ``url``. Keeps what it was sent: ``made`` repositories, and the ``files`` of the last commit."""

    url: str
    made: list[dict[str, Any]]
    files: dict[str, bytes]


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self.answer(200, {"url": f"{self.server.url}/me/mine", "name": "me/mine"})
        elif self.path.startswith("/api/models/me/mine/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path.startswith("/api/models/me/mine/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            sent = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files = {each["path"]: base64.b64decode(each["content"]) for each in sent}
            self.answer(200, {"commitUrl": f"{self.server.url}/me/mine/commit/1", "commitOid": "1"})
        else:
            self.answer(200, {"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer(404, {"error": "not found"})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture()
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), _Answers) as server:
        server.url, server.made, server.files = f"http://127.0.0.1:{server.server_address[1]}", [], {}
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


Push = Callable[..., tuple[int, Any]]


@pytest.fixture()
def run(program_folder: Path, tmp_path: Path) -> Path:
    program = StepProgram(program_folder)
    state = program.initial_state() + 0.5
    save_peft(tmp_path / "run" / "adapter", program.manifest, program.frozen(), state)
    return tmp_path / "run"


def test_an_adapter_goes_to_the_hub_without_a_path(
    prge: Push, hub: Hub, run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code, said = prge("push", run, "me/mine", "--base", "them/theirs")
    assert code == 0 and said["url"] == f"{hub.url}/me/mine/commit/1"
    assert hub.made[0]["name"] == "mine" and hub.made[0]["visibility"] == "private"
    assert sorted(hub.files) == said["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for name, content in hub.files.items():
        assert str(tiny_model).encode() not in content and tiny_model.name.encode() not in content, name
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "them/theirs"
    card = hub.files["README.md"].decode()
    assert '\nbase_model: "them/theirs"\n' in card and "\n- base_model:adapter:them/theirs\n" in card
    ours = load((run / "adapter" / "adapter_model.safetensors").read_bytes())
    sent = load(hub.files["adapter_model.safetensors"])
    assert ours.keys() == sent.keys() and all(ours[name].equal(sent[name]) for name in ours)
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path))


def test_a_public_repository_is_asked_for(prge: Push, hub: Hub, run: Path) -> None:
    assert prge("push", run, "me/mine", "--base", "them/theirs", "--public")[0] == 0
    assert hub.made[0]["visibility"] == "public"


def test_what_cannot_be_pushed_is_a_sentence(
    prge: Push, hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object) -> str:
        code, said = prge("push", *words)
        assert code == 1
        return str(said["error"])

    assert "which is not on the hub; add --base OWNER/NAME" in refused(run, "me/mine")
    assert "REPO 'mine' is no repository; write OWNER/NAME" in refused(run, "mine")
    assert "is not a PEFT adapter folder" in refused(tmp_path, "me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "log in with `hf auth login`" in refused(run, "me/mine", "--base", "them/theirs")
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"no weights")
    assert "cannot be read" in refused(run, "me/mine", "--base", "them/theirs")
    assert not hub.files
