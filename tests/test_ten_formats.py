"""Ten formats of the documentation, each from a file to a generated answer that stops, by one command to train.

``PRGE_THOROUGH=1`` takes all ten, in place of every fourth.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from transformers import AutoTokenizer

THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))
PAGE = Path(__file__).parent.parent / "docs" / "data.md"
PLACES = ("harbour", "library", "bakery", "garage", "museum", "clinic", "market", "stadium")
# file -> (its row for the harbour, the text that `prge generate` continues)
TEN: dict[str, tuple[str, str]] = {
    file: (row.replace("\\|", "|"), text.replace("\\n", "\n"))
    for file, row, text in re.findall(r"^\| `(\S+)` \| `(.+)` \| `(.+)` \|$", PAGE.read_text(), re.MULTILINE)
}


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Path], tokenizer_folder: Path) -> Path:
    folder = make_model(tiny_config(num_hidden_layers=1))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<end>' }}{% endfor %}" + (
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


def written(file: Path, row: str) -> Path:
    """A file with such a row for every place."""
    rows = [row.replace("harbour", place) for place in PLACES * 3]
    if file.suffix == ".json":
        file.write_text(json.dumps([json.loads(row) for row in rows]))
    elif file.suffix == ".csv":
        head, _, row = row.partition("↵")
        lines = [row.strip().replace("harbour", place) for place in PLACES * 3]
        file.write_text("\n".join([head.strip(), *lines]) + "\n")
    else:
        file.write_text("".join(row + "\n" for row in rows))
    return file


def test_there_are_ten() -> None:
    assert len(TEN) == 10


@pytest.mark.parametrize("file", list(TEN)[:: 1 if THOROUGH else 4])
def test_from_a_file_to_an_answer_that_stops(
    file: str, model: Path, prge: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    row, text = TEN[file]
    data, run = written(tmp_path / file, row), tmp_path / "run"
    code, trained = prge(
        "train", model, "--data", data, "--generate", "--steps", 60, "--eval-every", 0, "--lr", 0.05, "-o", run
    )
    assert code == 0, trained
    chat = ["--chat"] if "messages" in row or "conversations" in row else []
    code, said = prge("generate", run / "program", text, "--state", run, "--max-new-tokens", 40, *chat)
    assert code == 0 and said["ended_by"] == "the model" and 0 < said["new_tokens"] < 40, said
