"""A user's own data: what is inferred from them, and the one command from a file to an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from test_chat import PLAIN
from test_formats import KINDS
from tokenizers import Tokenizer

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.choices import chosen
from prge.examples.detect import FormOptions, infer, read_form
from prge.examples.form import Form
from prge.examples.read import Record, place
from prge.export.fit_form import fitted, label_words
from prge.export.prompts import row_maker
from prge.models.checkpoints import load_checkpoint
from prge.runtime_driver.program.step import StepProgram

NEWS = [{"headline": f"A headline of some length, number {i}", "kind": ("sports", "politics")[i % 2]} for i in range(8)]


def rows(*columns: str, values: list[tuple[Any, ...]]) -> list[Record]:
    return [dict(zip(columns, row, strict=True)) for row in values]


CASES: dict[str, tuple[list[Record], FormOptions, Form]] = {
    "text and label": (
        rows("label", "text", values=[("10", "a b"), ("2", "c d"), ("10", "e f")]),
        FormOptions(),
        Form("{text}\nLabel:", (("2", ""), ("10", "")), "label"),
    ),
    "classes are the few values that recur": (
        [{"id": str(i), **row} for i, row in enumerate(NEWS)],
        FormOptions(),
        Form("{headline}\nKind:", (("politics", ""), ("sports", "")), "kind"),
    ),
    "columns by name": (
        [{**row, "label": str(i)} for i, row in enumerate(NEWS)],
        FormOptions(text="headline", label=("kind",)),
        Form("{headline}\nKind:", (("politics", ""), ("sports", "")), "kind"),
    ),
    "a pair of texts": (
        rows("premise", "hypothesis", "label", values=[("a", "b", "yes"), ("c", "d", "no")]),
        FormOptions(),
        Form("Premise: {premise}\nHypothesis: {hypothesis}\nLabel:", (("no", ""), ("yes", "")), "label"),
    ),
    "text to text": (
        rows("question", "answer", values=[("a", "b"), ("c", "d")]),
        FormOptions(),
        Form("{question}\nAnswer:", target=" {answer}"),
    ),
    "an instruction with its input": (
        rows("instruction", "input", "output", values=[("a", "b", "c"), ("d", "e", "f")]),
        FormOptions(),
        Form("Instruction: {instruction}\nInput: {input}\nOutput:", target=" {output}"),
    ),
    "a target of the user's": (
        rows("de", "en", values=[("a", "b"), ("c", "d")]),
        FormOptions(target=" {en}"),
        Form("{de}", target=" {en}"),
    ),
    "one column of text": (rows("story", values=[("a",), ("b",)]), FormOptions(), Form("", target="{story}")),
    "candidates": (
        rows("question", "choices", "answer", values=[("a", ["b", "c"], "A"), ("d", ["e", "f", "g"], "B")]),
        FormOptions(),
        Form("{question}\nAnswer:", target=" {choice}", choices="choices", label_column="answer"),
    ),
    "messages": (
        rows("id", "messages", values=[("1", [{"role": "user", "content": "x"}])]),
        FormOptions(),
        Form("{prompt}", target="{answer}", chat=Chat("")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_form_of_own_data(name: str) -> None:
    data, asked, expected = CASES[name]
    assert infer(data, asked).form == expected


@pytest.mark.parametrize(
    ("data", "asked", "message"),
    [
        (rows("a", "b", values=[("x", "y"), ("z", "w")]), FormOptions(), "--text a --target ' {b}'"),
        (rows("a", values=[("x",)]), FormOptions(label=("kind",)), "no column 'kind'; there are a"),
        (rows("my.text", values=[("x",)]), FormOptions(), "'my.text' cannot stand in a template: rename it"),
        (rows("a", values=[(["x"],)]), FormOptions(), "name the text with --text"),
    ],
)
def test_what_cannot_be_inferred_is_asked_for(data: list[Record], asked: FormOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        infer(data, asked)


@pytest.mark.parametrize(
    ("name", "content", "template"),
    [
        (
            "a.tsv",
            "utterance\tdomain\nplay it\tmusic\nring me\tphone\nstop\tmusic\ncall\tphone\n",
            "{utterance}\nDomain:",
        ),
        ("a.tsv", "play\tmusic\nring\tphone\nstop\tmusic\ncall\tphone\n", "{text}\nLabel:"),
        ("a.csv", "body,stars\nfine,4\nbad,1\n", "{body}\nStars:"),
        ("a.txt", "one line\nof text\n\nand another\n", ""),
    ],
)
def test_kinds_of_files(name: str, content: str, template: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_form(FormOptions(), tmp_path / name).form.template == template


def test_what_is_given_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in NEWS))
    asked = FormOptions(label=("sports= ball", "politics= vote", "kind"), template="{headline} is", max_tokens=24)
    expected = Form("{headline} is", (("sports", " ball"), ("politics", " vote")), "kind", max_tokens=24)
    assert read_form(asked, path).form == expected
    plain = read_form(FormOptions(target=" {kind}", max_targets=5), path).form
    assert (plain.labels, plain.target, plain.max_targets) == ((), " {kind}", 5)


def test_answers_by_text_letter_or_index() -> None:
    for answer in ("blue", "B", "1"):
        record = chosen({"choices": ["red", "blue"], "answer": answer}, "choices", "answer", "here")
        assert (record["choice"], record["answer"]) == ("blue", "1")
    with pytest.raises(UserError, match="here: answer 'C' is none of the choices"):
        chosen({"choices": ["red", "blue"], "answer": "C"}, "choices", "answer", "here")
    odd: tuple[Any, ...] = ("red", ["red"], ["red", 1], {"red": 1}, None, 7)
    for choices in odd:
        with pytest.raises(UserError, match="must be a list of at least two texts"):
            chosen({"choices": choices, "answer": "A"}, "choices", "answer", "here")
    for answer in odd[1:4]:
        with pytest.raises(UserError, match=r"here: answer .* is none of the choices"):
            chosen({"choices": ["red", "blue"], "answer": answer}, "choices", "answer", "here")


def test_the_column_choice_is_the_right_choice_s() -> None:
    assert chosen({"choices": ["red", "blue"], "choice": "B"}, "choices", "answer", "here") == {
        "choices": ["red", "blue"]
    }
    for columns in (("choice", "answer"), ("choices", "choice")):
        with pytest.raises(UserError, match="here: the column 'choice' is prge's own"):
            chosen({"choices": ["red", "blue"], "choice": "B", "answer": "B"}, *columns, "here")


def test_label_words_are_single_tokens_and_distinct(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))

    def single(words: list[str] | None) -> bool:
        assert words
        tokens = [tokenizer.encode(word).ids for word in words]
        return all(len(ids) == 1 for ids in tokens) and len({ids[0] for ids in tokens}) == len(words)

    assert label_words(["today", "later"], tokenizer) == [" today", " later"]
    begun = label_words(["today_qzx", "laterjkw"], tokenizer)
    assert begun and single(begun) and [word.strip() for word in begun] != ["today_qzx", "laterjkw"]
    assert all(name.startswith(word.strip()) for name, word in zip(["today", "later"], begun, strict=True))
    for names in (["today x", "today y"], ["!!", "??", "."]):
        assert single(label_words(names, tokenizer))
    mixed = label_words(["today", "later", "\u2603"], tokenizer)  # one odd name changes no other's word
    assert mixed and mixed[:2] == [" today", " later"] and single(mixed)
    assert label_words([f"today {i}" for i in range(40)], tokenizer) is None


def test_a_class_whose_beginning_is_taken_has_another_word_of_its_name(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    assert label_words(["call_me", "call_me_later", "call_today"], tokenizer) == [" call", " later", " today"]
    assert label_words(["call_me", "call_today", "today"], tokenizer) == [" call", " A", " today"]


def test_bounds_hold_the_data(tiny_model: Path) -> None:
    checkpoint = load_checkpoint(str(tiny_model))
    tokenizer = checkpoint.tokenizer
    texts = ["call me", "nobody can deploy until it's reverted, tests fail on main " * 3]
    longest = max(len(tokenizer(text)["input_ids"]) for text in texts)
    records = [(i, {"text": text, "reply": "yes, call me"}) for i, text in enumerate(texts)]
    classes = fitted(Form("{text}", (("a", ""), ("b", ""))), checkpoint, records)
    assert longest <= (classes.max_tokens or 0) < longest + 8 and all(word for _, word in classes.labels)
    reply = len(tokenizer("yes, call me")["input_ids"]) + 1  # and the end
    text_to_text = fitted(Form("{text}", target="{reply}"), checkpoint, records)
    assert text_to_text.max_targets == reply and longest + reply <= (text_to_text.max_tokens or 0)
    assert fitted(Form("", target="{text}"), checkpoint, records).max_targets == min(32, longest)
    given = Form("{text}", target="{reply}", max_tokens=30, max_targets=3)
    assert fitted(given, checkpoint, records) == given
    long = fitted(Form("{text}", target="{reply}"), checkpoint, [(1, {"text": "call me " * 400, "reply": "x"})])
    assert 512 < (long.max_tokens or 0) < 2048  # ordinary passages need no option
    with pytest.raises(UserError, match="give --max-tokens"):
        fitted(Form("{text}", target="{reply}"), checkpoint, [(1, {"text": "call me " * 2000, "reply": "x"})])
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: no column 'text'"):
        fitted(Form("{text}", target="{reply}"), checkpoint, [(3, {"reply": "x"})], "a.jsonl")


def test_bounds_are_of_the_driver_s_tokens(make_model: Callable[..., Path], encoder_tokenizer_folder: Path) -> None:
    """A chat template writes the special tokens itself; elsewhere the tokenizer puts two around the prompt."""
    checkpoint = load_checkpoint(str(make_model(tiny_config(), tokenizer=encoder_tokenizer_folder)))

    def bare(text: str) -> int:
        return len(checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt = "call me" * 16
    while bare(prompt) % 8 != 6:  # with the answer's one token and the end they fill the bound, and no other fits
        prompt += "x"
    row, form = bare(prompt) + bare(" today") + 1, Form("{prompt}", target="{answer}")
    records = [(1, {"prompt": prompt, "answer": " today"}), (2, {"prompt": "x", "answer": " call me back today"})]
    assert row % 8 == 0
    assert fitted(replace(form, chat=Chat("x")), checkpoint, records).max_tokens == row
    assert fitted(form, checkpoint, records).max_tokens == row + 8


def test_one_command_from_a_file_to_an_adapter(
    prge: Callable[..., tuple[int, Any]],
    tiny_model: Path,
    demo_data: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    train = ["train", tiny_model, "--data", demo_data / "train.tsv", "--steps", 4, "--lr", 0.01]
    code, printed = prge(*train, "--label", "kind", "-o", run)
    assert code == 1 and "no column 'kind'" in printed["error"] and not run.exists()
    code, trained = prge(*train, "--text", "text", "--label", "label", "--template", "{text} Reply", "-o", run)
    assert code == 0 and trained["completed"] and trained["after"].keys() >= {"loss", "accuracy"}
    assert trained["inferred"]["prompt"] == "'{text} Reply'" and "today = today" in trained["inferred"]["classes"]
    program = StepProgram(run / "program")
    assert program.manifest.template == "{text} Reply" and program.manifest.adapter.subspace == "fisher"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    code, evaluated = prge("eval", run / "program", "--data", demo_data / "train.tsv", "--state", run)
    assert code == 0 and evaluated["examples"] == 280
    # The program is there for more runs, and has its form.
    again = ["train", run / "program", "--data", demo_data / "train.tsv", "--steps", 1, "--lr", 0.01]
    code, printed = prge(*again, "--task", "sst2", "-o", tmp_path / "again")
    assert code == 1 and "options of the form go with a model" in printed["error"]
    code, _ = prge(*again, "-o", tmp_path / "again")
    assert code == 0
    code, printed = prge(*train, "-o", run)
    assert code == 1 and "holds another run" in printed["error"]


def test_what_a_file_holds_is_shown(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, demo_data: Path, tmp_path: Path
) -> None:
    code, found = prge("data", demo_data / "train.tsv")
    assert code == 0 and found["format"] == "labels" and found["lengths"]["unit"] == "characters"
    assert found["classes"] == {"today": 140, "later": 140} and len(found["first"]) == 3
    code, found = prge("data", demo_data / "train.tsv", "--model", tiny_model, "--text", "text")
    assert code == 0 and found["lengths"]["unit"] == "tokens" and found["first"][0]["learned"] in (" today", " later")
    assert int(found["inferred"]["most tokens"]) >= found["lengths"]["longest"]
    code, found = prge("data", demo_data / "chat.jsonl")
    assert code == 0 and found["format"] == "messages" and found["first"][0]["prompt"].endswith("assistant: ")
    two = "".join(json.dumps({**row, "topic": "xy"[i // 4], "stars": i % 3}) + "\n" for i, row in enumerate(NEWS))
    (tmp_path / "two.jsonl").write_text(two)
    code, found = prge("train", tiny_model, "--data", tmp_path / "two.jsonl", "-o", tmp_path / "run")
    assert code == 1 and "--label topic`" in found["error"] and "--label stars`" in found["error"]


@pytest.mark.parametrize("name", [name for name in KINDS if "null" not in name])  # this template knows no calls
def test_every_format_becomes_rows_that_end_in_what_is_learned(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """From a file to the tokens of a program's first example, whose targets are the answer's."""
    content, _, prompt, learned = KINDS[name]
    (tmp_path / "a.jsonl").write_text(content)
    reading = read_form(FormOptions(), tmp_path / "a.jsonl")
    chat = Chat(PLAIN) if reading.form.chat else None
    checkpoint = load_checkpoint(str(tiny_model))
    form = replace(reading.form, chat=chat)
    form = fitted(form, checkpoint, form.records(tmp_path / "a.jsonl"))
    maker = row_maker(checkpoint, form)
    number, record = form.records(tmp_path / "a.jsonl")[0]
    first, *_ = maker.encode(record, place("a.jsonl", number))
    shown = maker.tokenizer.decode(list(first.tokens), skip_special_tokens=False)
    if form.labels:
        assert shown == prompt and learned.strip() in [each.strip() for each in form.labels[first.label]]
        return
    targets = maker.tokenizer.decode(list(first.tokens[-first.targets :]), skip_special_tokens=False)
    assert learned.strip() in shown and (learned.strip() in targets or not prompt)


def test_more_classes_than_words_are_learned_as_text(tiny_model: Path) -> None:
    form = Form("{text}\nKind:", tuple((f"card_{i}", "") for i in range(77)), "kind")
    records: list[tuple[int, Record]] = [(i, {"text": f"call me {i}", "kind": f"card_{i}"}) for i in range(77)]
    found = fitted(form, load_checkpoint(str(tiny_model)), records)
    assert (found.labels, found.target) == ((), " {kind}") and (found.max_targets or 0) > 2


def test_a_chat_needs_a_chat_template(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, demo_data: Path, tmp_path: Path
) -> None:
    code, printed = prge("train", tiny_model, "--data", demo_data / "chat.jsonl", "-o", tmp_path / "run")
    assert code == 1 and "has no chat template" in printed["error"] and not (tmp_path / "run").exists()


def test_tasks_are_listed(prge: Callable[..., tuple[int, Any]]) -> None:
    code, tasks = prge("tasks")
    assert code == 0 and tasks["mrpc"]["metrics"] == ["accuracy", "f1"]
    assert {task["kind"] for task in tasks.values()} == {"classification", "multiple choice", "question answering"}
