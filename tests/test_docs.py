"""The documentation's commands and programs, run as they stand, with a tiny model in the real one's place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import tiny_config
from test_families import config
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from typer.core import TyperGroup
from typer.main import get_command

from prge.cli import app as cli

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *(f"docs/{p}.md" for p in ("phone", "python", "raspberry-pi", "tasks", "families", "native")))
MODEL = "smollm2-135m"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of a page's commands and programs."""
    return iter(re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="session")
def model_with_words(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A tiny model whose tokenizer has the documentation's label words."""
    folder = tmp_path_factory.mktemp("documented")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_tokens([" terrible", " great"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<end>' }}{% endfor %}" + (
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    AutoModelForCausalLM.from_config(tiny_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoders(
    make_model: Callable[..., Path], encoder_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Tiny encoders under the names that the documentation gives real ones."""
    folder = tmp_path_factory.mktemp("words")
    tokenizer = AutoTokenizer.from_pretrained(encoder_tokenizer_folder)
    tokenizer.add_tokens([" terrible", " great"])
    tokenizer.save_pretrained(folder)
    long = {"max_position_embeddings": 160}
    return {
        "roberta-base": make_model(config("roberta", **long), AutoModelForMaskedLM, folder),
        "all-MiniLM-L6-v2": make_model(config("bert", **long), AutoModel, folder),
    }


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_commands_run(
    page: str, model_with_words: Path, encoders: dict[str, Path], demo_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, folder in encoders.items():
        Path(name).symlink_to(folder)
    rows = [line.split("\t") for line in (demo_data / "train.tsv").read_text().splitlines()[1:]]
    lines = [f"{text}\t{int(label == 'today')}\n" for text, label in rows if len(text) < 80]
    Path("train.tsv").write_text("".join(lines[8:]))
    Path("dev.tsv").write_text("".join(lines[:8]))
    Path("SST-2").mkdir()
    for part in (Path("train.tsv"), Path("dev.tsv")):
        ("SST-2" / part).write_text("sentence\tlabel\n" + part.read_text())
    Path("messages.tsv").write_text("text\tlabel\n" + "".join(lines))
    Path("chat.jsonl").write_bytes((demo_data / "chat.jsonl").read_bytes())
    names: dict[str, object] = {}
    ran = 0
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), names)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace(MODEL, str(model_with_words)), comments=True)
            if words[:1] == ["prge"]:
                monkeypatch.setattr("sys.argv", words)
                with pytest.raises(SystemExit) as stop:
                    cli.main()
                assert not stop.value.code, line
                ran += 1
            else:
                assert words[:2] in ([], ["pip", "install"]), f"{page}: {line} is run by no test"
    assert ran


@pytest.mark.parametrize("page", PAGES)
def test_commands_for_other_machines_have_the_options_that_there_are(page: str) -> None:
    """What stands behind a prompt, as `laptop$`, is run by no test, but read as the command line reads it."""
    for line in re.findall(r"^\S*\$ (?:\S+/)?prge (.+)$", (ROOT / page).read_text(), re.MULTILINE):
        words, command = shlex.split(line), get_command(cli.app)
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words).close()
