"""The documentation: its commands and programs run as they stand, with a tiny model; its links and options exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from test_families import config
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from typer.core import TyperGroup
from typer.main import get_command

from prge.cli import app as cli
from prge.manifest import VERSION as PROGRAM_VERSION
from prge.runtime_driver.loop import train
from prge.runtime_driver.run.folder import VERSION as RUN_VERSION

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m"
INDEX = "docs/README.md"
FOLDERS = (".", "docs", *(f"android_demo{part}" for part in ("", "/core", "/executorch", "/host")), "tests/golden")
ALL = sorted(str(page.relative_to(ROOT)) for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of a page's commands and programs."""
    return iter(re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


def command_lines(text: str) -> list[str]:
    """The lines of a block, with those that go on in the next one put together."""
    return text.replace("\\\n", " ").splitlines()


# Every page with something to run.
PAGES = [page for page in ALL if list(blocks(page))]


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
    smallest = tiny_config(vocab_size=len(tokenizer), num_hidden_layers=1)
    AutoModelForCausalLM.from_config(smallest).save_pretrained(folder)
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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("data")
    rows = [line.split("\t") for line in (demo_data / "train.tsv").read_text().splitlines()[1:]]
    lines = [f"{text}\t{int(label == 'today')}\n" for text, label in rows if len(text) < 80]
    (folder / "SST-2").mkdir()
    for name, part in (("train.tsv", lines[8:]), ("dev.tsv", lines[:8])):
        (folder / name).write_text("".join(part))
        (folder / "SST-2" / name).write_text("sentence\tlabel\n" + "".join(part))
    (folder / "messages.tsv").write_text("text\tlabel\n" + "".join(lines))
    (folder / "chat.jsonl").write_bytes((demo_data / "chat.jsonl").read_bytes())
    asked = [{"instruction": text, "input": "", "output": f"At gate {i}."} for i, (text, _) in enumerate(rows)]
    (folder / "alpaca.json").write_text(json.dumps([row for row in asked if len(row["instruction"]) < 80]))
    return folder


@pytest.fixture(scope="session")
def front_page_s_program(data: Path, model_with_words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sst2``, as the front page exports it; other pages begin with it."""
    line = next(line for _, text in blocks("README.md") for line in command_lines(text) if " -o sst2" in line)
    folder = tmp_path_factory.mktemp("exported")
    words = shlex.split(line.replace(MODEL, str(model_with_words)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        run([str(folder / word) if word == "sst2" else word for word in words], patch, line)
    return folder / "sst2"


def run(words: list[str], patch: pytest.MonkeyPatch, line: str) -> None:
    patch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, line


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of at most twenty steps, and small products in place of those that tell a machine's limits."""

    def settle(*arguments: Any, steps: int, **settings: Any) -> Any:
        return train.settle(*arguments, steps=min(steps, 20), **settings)

    monkeypatch.setattr("prge.commands.train.settle", settle)
    chains = {"f32": (16, 64, 2, False), "int8": (16, 64, 2, True), "bandwidth": (1, 64, 2, False)}
    monkeypatch.setattr("prge.bench.step._CHAINS", chains)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_commands_run(
    page: str, model_with_words: Path, encoders: dict[str, Path], data: Path, tmp_path: Path,
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    for name, folder in encoders.items():
        Path(name).symlink_to(folder)
    if not re.search(r" -o sst2\b|prge\.export\(", (ROOT / page).read_text()):
        Path("sst2").symlink_to(request.getfixturevalue("front_page_s_program"))
    names: dict[str, object] = {}
    ran = 0
    for language, text in blocks(page):
        text = text.replace(MODEL, str(model_with_words))
        if language == "python":
            exec(compile(text, page, "exec"), names)
            ran += 1
            continue
        for line in command_lines(text):
            words = shlex.split(line, comments=True)
            if words[:1] == ["prge"]:
                run(words, monkeypatch, line)
                ran += 1
            else:
                assert words[:2] in ([], ["pip", "install"]), f"{page}: {line} is run by no test"
    assert ran


@pytest.mark.parametrize("page", ALL)
def test_commands_for_other_machines_have_the_options_that_there_are(page: str) -> None:
    """What stands behind a prompt, as `laptop$`, or in a plain block is run by no test, but read as a command line."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"^\S*\$ (?:\S+/)?(prge .+)$", text, re.MULTILINE)
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += [line for line in command_lines(block) if line.startswith("prge ")]
    for line in lines:
        words, command = shlex.split(line, comments=True)[1:], get_command(cli.app)
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words).close()


@pytest.mark.parametrize("page", [*ALL, *(f".github/ISSUE_TEMPLATE/{n}.yml" for n in ("bug", "measurement", "phone"))])
def test_commands_in_the_text_exist(page: str) -> None:
    """Of `prge train PROGRAM --from RUN` the command and its options, whatever the words between them stand for."""
    for text in re.findall(r"`prge (\w[^`]*)`", (ROOT / page).read_text()):
        words, command = shlex.split(text), get_command(cli.app)
        while isinstance(command, TyperGroup) and words:
            assert words[0] in command.commands, f"{page}: prge {text}"
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, f"{page}: prge {text}"


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links {link}"
        assert not anchor or anchor in slugs(target), f"{page} links {link}"


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"^- \[.+?\]\((\S+?)\): .+\.$", (ROOT / INDEX).read_text(), re.MULTILINE)
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {link for link in linked if "/" not in link} and len(linked) == len(set(linked))


def test_the_versions_are_those_of_the_code() -> None:
    page = (ROOT / "docs/formats.md").read_text()
    for first, version in (("program ", PROGRAM_VERSION), ("run folder ", RUN_VERSION)):
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {first}"))
        assert line.split("|")[-2].strip() == str(version)


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [*ALL, ".github/workflows/ci.yml"])
def test_make_s_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`|run: )make ([a-z-]+)(?=`| *#|$)", (ROOT / page).read_text(), re.MULTILINE)
    assert set(named) <= targets
