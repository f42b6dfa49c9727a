"""People's own files: every kind of format and file gives the right prompt and the right part to learn."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prge.commands.ask import settled
from prge.commands.data import look_at
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.detect import FormOptions, Unsure, read_form
from prge.examples.form import Form, split
from prge.examples.formats import FORMATS
from prge.examples.json_rows import json_rows
from prge.examples.keep import classes_of, keep
from prge.examples.read import Part, Record, read_file

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
PAGE = ROOT / "docs" / "data.md"
PLACES = ("harbour", "library", "bakery", "garage", "museum", "clinic", "market", "stadium")


def jsonl(*rows: Record) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def many(row: Callable[[int, str], Record], count: int = 24) -> str:
    return jsonl(*(row(i, PLACES[i % len(PLACES)]) for i in range(count)))


def seen(path: Path, **options: Any) -> dict[str, Any]:
    return look_at(path, form=FormOptions(**options))


ASKED = [{"role": "user", "content": "Where?"}]
CALL = {"function": {"name": "clock", "arguments": {}}}
SAID = [{"role": "assistant", "content": "There."}]
TURNS = "user: Where?\nassistant: "

# name -> (a file's lines, its format, the first example's prompt, what is learned of it)
KINDS: dict[str, tuple[str, str, str, str]] = {
    "alpaca": (
        many(lambda i, p: {"instruction": f"Where is {p}?", "input": ("a map", "")[i % 2], "output": f"At gate {i}."}),
        "alpaca", "Instruction: Where is harbour?\nInput: a map\nOutput:", " At gate 0.",
    ),
    "alpaca, one instruction for all": (
        many(lambda i, p: {"instruction": "Good or bad?", "input": f"The {p}, {i}", "output": ("good", "bad")[i % 2]}),
        "alpaca", "Instruction: Good or bad?\nInput: The harbour, 0\nOutput:", " good",
    ),
    "alpaca with a system text and another text of it all": (
        many(lambda i, p: {
            "text": f"{p} {i}", "instruction": f"Where is {p} {i}?", "input": None, "output": f"Gate {i}.",
            "system": "Be brief.",
        }),
        "alpaca", "System: Be brief.\nInstruction: Where is harbour 0?\nOutput:", " Gate 0.",
    ),
    "alpaca with its history": (
        jsonl({
            "instruction": "Where?", "input": "", "output": "There.", "system": "Be brief.",
            "history": [["Hi", "Yes?"]],
        }),
        "history", "system: Be brief.\nuser: Hi\nassistant: ", "Yes?",
    ),
    "dolly": (
        many(lambda i, p: {
            "instruction": f"Say something on {p} {i}", "context": "" if i else "It is old.",
            "response": f"It has {i} doors.", "category": ("open_qa", "closed_qa")[i % 2],
        }),
        "dolly", "Context: It is old.\nInstruction: Say something on harbour 0\nResponse:", " It has 0 doors.",
    ),
    "sharegpt": (
        jsonl({"id": "1", "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]}),
        "sharegpt", TURNS, "There.",
    ),
    "sharegpt, a system turn": (
        jsonl({"conversations": [
            {"from": "system", "value": "Hm."}, {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "There."},
        ]}),
        "sharegpt", "system: Hm.\n" + TURNS, "There.",
    ),
    "sharegpt in an object": (
        json.dumps({"version": 1, "items": [{"conversations": [
            {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."},
        ]}]}),
        "sharegpt", TURNS, "There.",
    ),
    "openai": (jsonl({"messages": ASKED + SAID}), "messages", TURNS, "There."),
    "openai, contents in parts": (
        jsonl({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Whe"}, {"type": "text", "text": "re?"}]}, *SAID,
        ]}),
        "messages", TURNS, "There.",
    ),
    "openai, a null content": (
        jsonl({"messages": [*ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, *ASKED]}),
        "messages", TURNS, '[{"type": "function", "function": {"name": "clock", "arguments": {}}}]',
    ),
    "trl, text": (
        many(lambda i, p: {"prompt": f"Where is {p}?", "completion": f" At gate {i}."}),
        "completion", "Where is harbour?", " At gate 0.",
    ),
    "trl, conversational": (jsonl({"prompt": ASKED, "completion": SAID}), "conversational", TURNS, "There."),
    "preference, text": (
        many(lambda i, p: {"prompt": f"Where is {p}?", "chosen": f"Gate {i}.", "rejected": "Go away."}),
        "preference", "Where is harbour?\nAnswer:", " Gate 0.",
    ),
    "preference, conversational": (
        jsonl({"prompt": ASKED, "chosen": SAID, "rejected": [{"role": "assistant", "content": "No."}]}),
        "preference-chat", TURNS, "There.",
    ),
    "preference, with the prompt in both": (
        jsonl({"prompt": "Where?", "chosen": ASKED + SAID, "rejected": ASKED}), "preference-chat", TURNS, "There.",
    ),
    "question and answer": (
        many(lambda i, p: {"id": i, "question": f"Where is {p}?", "answer": f"At gate {i}."}),
        "question-answer", "Where is harbour?\nAnswer:", " At gate 0.",
    ),
    "question, context, answer": (
        many(lambda i, p: {"question": f"Where is {p}?", "context": f"Gate {i} is {p}'s.", "answer": f"At gate {i}."}),
        "question-answer", "Context: Gate 0 is harbour's.\nQuestion: Where is harbour?\nAnswer:", " At gate 0.",
    ),
    "squad": (
        json.dumps({"version": "1.1", "data": [{"title": "x", "paragraphs": [{"context": "Rome is old.", "qas": [
            {"id": "1", "question": "What is old?", "answers": [{"text": "Rome", "answer_start": 0}]},
        ]}]}]}),
        "squad", "Rome is old.\nQuestion: What is old?\nAnswer:", " Rome",
    ),
    "squad's columns": (
        jsonl({"context": "Rome is old.", "question": "What is old?", "answers": {"text": ["Rome"]}}),
        "squad", "Rome is old.\nQuestion: What is old?\nAnswer:", " Rome",
    ),
    "boolq's own": (
        jsonl(*({"question": "is ice cold", "passage": f"Ice {i}.", "answer": bool(i % 2)} for i in range(4))),
        "boolq-answer", "Ice 0.\nQuestion: is ice cold?\nAnswer:", " No",
    ),
    "a text and its summary": (
        many(lambda i, p: {
            "article": f"The {p} of street {i} has opened.", "summary": f"It opened, {i}.", "date": "2024-01-01",
        }),
        "text-to-text", "The harbour of street 0 has opened.\nSummary:", " It opened, 0.",
    ),
    "labels in any case": (
        many(lambda i, p: {"Tweet text": f"The {p} is number {i}", "LABEL": ("b", "a")[i % 2]}),
        "labels", "The harbour is number 0\nLabel:", " b",
    ),
    "labels, a title and a text": (
        many(lambda i, p: {"title": f"On {p} {i}", "description": f"It is the {i}th.", "class": ("x", "y")[i % 2]}),
        "labels", "Title: On harbour 0\nDescription: It is the 0th.\nClass:", " x",
    ),
    "labels with their numbers": (
        many(lambda i, p: {"text": f"The {p} {i}", "label": i % 2, "label_text": ("ham", "spam")[i % 2]}),
        "labels", "The harbour 0\nLabel text:", " ham",
    ),
    "plain text": (many(lambda i, p: {"text": f"The {p} opened in {i}."}), "text", "", "The harbour opened in 0."),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_format_is_told_by_its_columns(name: str, tmp_path: Path) -> None:
    content, kind, prompt, learned = KINDS[name]
    (tmp_path / "a.jsonl").write_text(content)
    found = seen(tmp_path / "a.jsonl")
    assert (found["format"], found["first"][0]["prompt"], found["first"][0]["learned"]) == (kind, prompt, learned)
    assert not found["unsure"]
    assert seen(tmp_path / "a.jsonl", format=kind)["first"] == found["first"]


def test_every_format_is_tried() -> None:
    of_tasks = {"drop", "multirc", "arc", "copa", "winogrande", "wsc", "wic", "mrpc", "qqp", "qnli", "boolq", "choices"}
    assert FORMATS.keys() == {kind for _, kind, _, _ in KINDS.values()} | of_tasks


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(KINDS["dolly"][0])
    assert any(
        "'category' is not used" in note and "--label category" in note for note in seen(tmp_path / "a.jsonl")["notes"]
    )
    (tmp_path / "b.jsonl").write_text(
        many(lambda i, p: {"text": f"{p} {i}", "label": "ab"[i % 2], "source": "the web"})
    )
    found = seen(tmp_path / "b.jsonl")
    assert (
        found["inferred"]["prompt"] == r"'{text}\nLabel:'"
        and "not used: source (the same in all rows)" in found["notes"]
    )
    (tmp_path / "c.jsonl").write_text(KINDS["preference, text"][0])
    assert any("what was rejected is not read" in note for note in seen(tmp_path / "c.jsonl")["notes"])


@pytest.mark.parametrize(
    ("rows", "ways"),
    [
        (
            many(lambda i, p: {"text": f"{p} {i}", "topic": "xy"[i % 2], "emotion": "abc"[i % 3]}),
            [{"label": ("topic",)}, {"label": ("emotion",)}],
        ),
        (
            many(lambda i, p: {"question": f"{p} {i}?", "answer": f"At gate {i}.", "label": "01"[i % 2]}),
            [{"target": " {answer}"}, {"label": ("label",)}],
        ),
        (
            many(lambda i, p: {"de": f"das Haus {i}", "en": f"the house {i}"}),
            [{"text": "de", "target": " {en}"}, {"text": "en", "target": " {de}"}],
        ),
    ],
)
def test_near_readings_are_refused_with_a_way_for_each(rows: str, ways: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows)
    with pytest.raises(Unsure) as unsure:
        read_form(FormOptions(), tmp_path / "a.jsonl")
    assert [options for _, options in unsure.value.ways] == ways
    for _, options in unsure.value.ways:  # each is a way out
        read_form(FormOptions(**options), tmp_path / "a.jsonl")
    assert len(seen(tmp_path / "a.jsonl")["unsure"]) == 1


def test_a_person_is_asked_and_nobody_is_given_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(many(lambda i, p: {"text": f"{p} {i}", "topic": "xy"[i % 2], "emotion": "abc"[i % 3]}))
    asked, told = [], list[str]()

    def ask(question: str, answers: Sequence[str]) -> int:
        asked.append((question, answers))
        return 1

    assert settled(FormOptions(), file, Hooks(told.append, ask=ask)).form.label_column == "emotion"
    assert [answers for _, answers in asked] == [["the classes of 'topic'", "the classes of 'emotion'"]]
    assert "only 24 rows" in told[0]
    monkeypatch.setattr("sys.argv", ["prge", "train", "MODEL", "--data", "my file.jsonl"])
    with pytest.raises(UserError) as refused:
        settled(FormOptions(), file, Hooks())
    for label in ("topic", "emotion"):
        assert f"`prge train MODEL --data 'my file.jsonl' --label {label}`" in str(refused.value)


def test_a_format_that_does_not_fit_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(KINDS["plain text"][0])
    with pytest.raises(UserError, match="the format alpaca has instruction, output; input, system; the file has text"):
        read_form(FormOptions(format="alpaca"), tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="no format is called 'alpaka'; there are messages, sharegpt"):
        read_form(FormOptions(format="alpaka"), tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [*ASKED, {"role": "poet", "content": "x"}]}, "line 2, message 2: role 'poet' is none of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "line 2, message 1: a part of its content is of the type image_url",
        ),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, 'line 2: "messages" must be a list'),
        ({"messages": ["x"]}, 'line 2: "messages" must be a list'),
        ({"messages": ASKED}, "line 2: no message of the role assistant"),
    ],
)
def test_odd_conversations_name_the_place(row: Record, message: str, tmp_path: Path) -> None:
    good = {"messages": ASKED + SAID}
    (tmp_path / "a.jsonl").write_text(jsonl(good, row, good))
    with pytest.raises(UserError, match=message):
        seen(tmp_path / "a.jsonl")


LINES = [(f"The {p}, on street {i}, était calm", ("good", "bad")[i % 2]) for i, p in enumerate(PLACES * 2)]


def table(separator: str, header: str = "text{}label") -> str:
    cell = '"{}"' if separator in (",", ";") else "{}"
    return "\n".join([header.format(separator), *(f"{cell.format(a)}{separator}{b}" for a, b in LINES)]) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", table(",").encode(), ""),
        ("a.csv", table(";").encode("utf-8-sig"), "separated by semicolons"),
        ("a.csv", ("sep=;\r\n" + table(";").replace("\n", "\r\n")).encode(), "separated by semicolons"),
        ("a.csv", table("\t").encode(), "separated by tabs"),
        ("a.csv", table("|").encode(), "separated by bars"),
        ("a.tsv", table("\t").encode(), ""),
        ("a.tsv", table(";").encode(), "separated by semicolons"),
        ("a.csv", table(",").encode("utf-16"), "UTF-16"),
        ("a.csv", table(",").encode("utf-16-le"), "UTF-16"),
        ("a.csv", table(",").encode("cp1252"), "read as Windows-1252, as in 'était'"),
        ("a.csv.gz", gzip.compress(table(",").encode()), ""),
        ("a.jsonl", json.dumps([{"text": a, "label": b} for a, b in LINES]).encode(), ""),
        ("a.json", jsonl(*({"text": a, "label": b} for a, b in LINES)).encode(), ""),
        ("a.json", "\n".join(json.dumps({"text": a, "label": b}, indent=1) for a, b in LINES).encode(), ""),
        ("a.json", json.dumps({"rows": [{"text": a, "label": b} for a, b in LINES]}).encode(), ""),
        ("a.txt", jsonl(*({"text": a, "label": b} for a, b in LINES)).encode(), "holds JSON"),
        ("a.tsv", table("\t").partition("\n")[2].encode(), "there is no header"),
        ("a.csv", table(",").partition("\n")[2].encode(), "there is no header"),
        ("a.tsv", "".join(f"{b}\t{a}\n" for a, b in LINES).encode(), "there is no header"),
    ],
)
def test_kinds_of_files_agree(name: str, content: bytes, note: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    reading = read_form(FormOptions(), tmp_path / name)
    assert reading.form == Form("{text}\nLabel:", (("bad", ""), ("good", "")), "label")
    assert any(note in each for each in reading.notes) if note else len(reading.notes) == 1  # on how few they are
    # And so a program reads them, whose columns are known.
    assert [(r["text"], r["label"]) for _, r in reading.form.records(tmp_path / name)] == LINES


@pytest.mark.parametrize(
    "content",
    [
        "Привет, мир".encode("cp1251"),
        "κόσμε".encode("iso8859-7"),
        "zażółć gęślą".encode("cp1250"),
        b"\x81\x8d",
        b"a\x00\xffb",
    ],
)
def test_an_encoding_that_cannot_be_told_is_named_by_the_user(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + content + b",x\n")
    with pytest.raises(UserError, match=r"cannot tell its encoding.*`iconv -f .* > utf8-a\.csv`"):
        read_file(tmp_path / "a.csv")


def test_a_header_is_no_row_and_a_row_no_header(tmp_path: Path) -> None:
    """Names that nobody knows are still a header; numbers, sentences and what recurs are none."""
    for head, names in (("frage\tantwort", ["frage", "antwort"]), ("17\twas it good", ["label", "text"])):
        rows = "".join(f"{17 + i % 2}\tit was number {i}\n" for i in range(20))
        (tmp_path / "a.tsv").write_text(f"{head}\n{rows}")
        assert list(read_file(tmp_path / "a.tsv").rows[0][1]) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, 5]', "record 2: a list of JSON objects"),
        ('{"a": 1}\n{"a": ', "line 2: not a JSON object"),
        ('{\n"a": 1\n}\n{\n"a": x}', "line 5: not JSON"),
        ('{"mine": [{"a": 1}], "yours": [{"a": 1}]}', "holds several lists"),
    ],
)
def test_odd_json_names_the_place(content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        json_rows("a.json", content)


def test_labels_that_differ_by_their_spelling_need_a_yes(tmp_path: Path) -> None:
    spelled = ["good", "Good", "good ", "bad"]
    (tmp_path / "a.jsonl").write_text(
        many(lambda i, p: {"text": f"{p} {i}", "label": spelled[i % 4] if i > 3 else "good"})
    )
    with pytest.raises(Unsure, match=r"'good' \(9\), 'Good' \(5\), 'good ' \(5\); say which: --merge-labels"):
        read_form(FormOptions(), tmp_path / "a.jsonl")
    found = seen(tmp_path / "a.jsonl", merge_labels=True)
    assert found["classes"] == {"good": 19, "bad": 5}
    assert found["left_out"] == ["read as 'good', which they spell otherwise: 10 rows (lines 6, 7, 10, 11, 14, ...)"]


def test_many_labels_in_several_spellings_are_counted(tmp_path: Path) -> None:
    places = ["account", "card", "fee", "loan", "pin", "rate", "transfer", "visa"]
    rows = [(f"about the {name} {i}", name.upper() if i == 3 else name) for name in places for i in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    with pytest.raises(Unsure, match=r"'pin' \(11\), 'PIN' \(1\); and so on for 3 other classes; say which: "):
        read_form(FormOptions(), tmp_path / "a.jsonl")
    found = seen(tmp_path / "a.jsonl", merge_labels=True)
    assert found["classes"] == dict.fromkeys(places, 12)
    assert len(found["left_out"]) == 6
    assert found["left_out"][5] == "read as 3 other classes, which they spell otherwise: 3 rows"
    assert not [note for note in found["notes"] if "few examples" in note]


def test_one_odd_cell_makes_no_class(tmp_path: Path) -> None:
    def row(i: int, place: str) -> Record:
        odd = {5: None, 7: "", 9: "NaN", 11: "goood"}
        return {"text": "" if i == 13 else f"{place} {i}", "label": odd.get(i, ("good", "bad")[i % 2])}

    (tmp_path / "a.jsonl").write_text(many(row, 48))
    found = seen(tmp_path / "a.jsonl")
    assert found["inferred"]["classes"] == "bad, good" and found["examples"] == 43
    assert sorted(found["left_out"]) == [
        "left out for a label that occurs once, 'goood': 1 row (line 12)",
        "left out for an empty text: 1 row (line 14)",
        "left out for having no label: 3 rows (lines 6, 8, 10)",
    ]


def test_rare_classes_are_classes_where_all_are_rare() -> None:
    assert classes_of(["a", "b", "c", "a"]).strays == []
    assert classes_of(["a", "b"] * 20 + ["c"]).strays == ["c"]
    assert classes_of(["a", "b"] * 20 + ["c", "C"]).strays == []


def test_a_program_reads_its_classes_in_any_case(tmp_path: Path) -> None:
    form = Form("{text}", (("good", " good"), ("bad", " bad")))
    records: list[tuple[int, Record]] = [(1, {"text": "x", "label": "Good "}), (2, {"text": "y", "label": "fine"})]
    kept = keep(form, records, "a.csv")
    assert [record["label"] for _, record in kept.records] == ["good", "fine"]  # which the encoder refuses by its line
    with pytest.raises(UserError, match=r"a\.csv: nothing is left to learn from: left out for an empty text: 1 row"):
        keep(form, [(4, {"text": "", "label": "good"})], "a.csv")


def test_duplicates_imbalance_and_tiny_files_are_said(tmp_path: Path) -> None:
    def row(i: int, place: str) -> Record:
        return {"text": f"{place} {max(i, 2)}", "label": "ab"[i == 30]}

    (tmp_path / "a.jsonl").write_text(many(row, 31).replace("library 2", "harbour 2"))
    found = seen(tmp_path / "a.jsonl", label=("label",))
    assert found["duplicates"] == ["the text of another one again: 1 row (line 2)"]
    notes = " ".join(found["notes"])
    assert "97% of the rows are 'a'" in notes and "only 31 rows" in notes


def test_hundreds_of_classes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "text,intent\n" + "".join(f"help with {i} {i % 300},c{i % 300}\n" for i in range(1200))
    )
    assert len(seen(tmp_path / "a.csv")["classes"]) == 300


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), min_size=2, max_size=60),
    st.floats(0.05, 0.8),
    st.integers(0, 5),
)
def test_each_class_of_several_texts_is_on_both_sides(texts: list[tuple[int, int]], share: float, seed: int) -> None:
    label = dict(texts)  # a text has one class
    data: list[tuple[int, Record]] = [(i, {"text": str(t), "label": str(label[t])}) for i, (t, _) in enumerate(texts)]
    parts = split(data, lambda r: str(r["text"]), share, seed, lambda r: str(r["label"]))
    several = {c for c in label.values() if sum(c == other for other in label.values()) > 1}
    for part in parts:
        if len({*label.values()}) > 1:
            assert {str(c) for c in several} <= {r["label"] for _, r in part}
    assert not {r["text"] for _, r in parts[0]} & {r["text"] for _, r in parts[1]}


def test_a_split_that_has_all_classes_is_as_it_was() -> None:
    data: list[tuple[int, Record]] = [(i, {"text": str(i), "label": str(i % 2)}) for i in range(50)]
    of_class = split(data, lambda r: str(r["text"]), 0.2, 3, lambda r: str(r["label"]))
    assert of_class == split(data, lambda r: str(r["text"]), 0.2, 3)


CELLS = st.one_of(
    st.sampled_from(
        ["", "good", "bad", "Good", "7", "0.5", "true", "null", "a few words of text", "Where is it?", '"', "\n"]
    ),
    st.text(max_size=12),
)
NAMES = st.sampled_from(
    ["text", "label", "question", "answer", "instruction", "output", "id", "x", "Zeile 1", "messages", "prompt"]
)


def is_as_said(path: Path) -> None:
    """A file is read as `prge data` says, or refused in a sentence that names it or its columns."""
    try:
        found = look_at(path)
    except UserError as e:
        assert str(e).strip() and "Traceback" not in str(e)
        assert str(path) in str(e) or re.search("column|format|labels", str(e)), e
        return
    options = FormOptions()
    while True:
        try:
            form = read_form(options, path).form
            break
        except Unsure as e:
            options = FormOptions(**{**vars(options), **e.ways[0][1]})
    if not form.chat:
        kept = keep(form, form.records(path), path)
        assert found["examples"] == len(kept.records) and found["left_out"] == kept.told
        assert sum(found["classes"].values()) == (found["examples"] if form.labels else 0)
    for shown in found["first"]:
        assert shown["learned"] or form.chat


@given(
    st.lists(
        st.dictionaries(NAMES, st.one_of(CELLS, st.none(), st.integers(), st.booleans(), st.lists(CELLS, max_size=2))),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([{"text": "a", "label": "x"}, {"text": "b"}, {"label": "y"}])
def test_any_json_lines_are_read_as_said(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_text(jsonl(*rows))
    is_as_said(path)


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True),
    st.lists(st.lists(CELLS, min_size=4, max_size=4), max_size=12),
    st.sampled_from(",;\t|"),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_table_is_read_as_said(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], rows: list[list[str]], separator: str
) -> None:
    quoted = [names, *(row[: len(names)] for row in rows)]
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_text(
        "\n".join(separator.join('"' + c.replace('"', '""') + '"' for c in row) for row in quoted), newline=""
    )
    is_as_said(path)


def test_the_page_lists_the_formats() -> None:
    """Compare the table of the page with the registry; with PRGE_WRITE_TABLES set, write it."""
    head = "| format | the data have | what is learned |\n| --- | --- | --- |\n"
    lines = [f"| {name} | {known.columns} | {known.learns} |" for name, known in FORMATS.items()]
    before, found, behind = PAGE.read_text().partition(head)
    assert found
    rest = re.sub(r"\A(\|.*\n)*", "", behind)
    page = before + head + "".join(f"{line}\n" for line in lines) + rest
    if os.environ.get("PRGE_WRITE_TABLES"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


PARTS: tuple[Part, ...] = ("train", "dev")
# folder -> (its format; the columns that are in the prompt or the target)
REAL: dict[str, tuple[str, set[str]]] = {
    "ag_news": ("labels", {"title", "description", "class"}),
    "arc-easy": ("arc", {"question", "choice", "label"}),
    "arc-challenge": ("arc", {"question", "choice", "label"}),
    "boolq": ("boolq", {"passage", "question", "label"}),
    "cb": ("labels", {"premise", "hypothesis", "label"}),
    "copa": ("copa", {"premise", "choice", "label"}),
    "mr": ("labels", {"text", "label"}),
    "mrpc": ("mrpc", {"sentence1", "sentence2", "label"}),
    "multirc": ("multirc", {"paragraph", "question", "answer", "label"}),
    "qnli": ("qnli", {"question", "sentence", "label"}),
    "rte": ("labels", {"sentence1", "sentence2", "label"}),
    "self-instruct": ("alpaca", {"instruction", "input", "output"}),
    "self-instruct-chat": ("messages", {"prompt", "answer"}),
    "squad": ("squad", {"passage", "question", "answer"}),
    "sst2": ("labels", {"text", "label"}),
    "wic": ("wic", {"sentence1", "sentence2", "word", "label"}),
    "winogrande": ("winogrande", {"before", "choice", "after", "label"}),
    "wnli": ("labels", {"sentence1", "sentence2", "label"}),
    "wsc": ("wsc", {"text", "pronoun", "name", "label"}),
}


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the tasks' real files are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_files_keep_all_their_inputs(name: str) -> None:
    kind, columns = REAL[name]
    reading = read_form(FormOptions(), SHARED / "data" / name)
    assert reading.format == kind and set(reading.form.columns) == columns
    if not reading.form.chat:
        for part in PARTS:
            records = reading.form.records(SHARED / "data" / name, part)
            assert len(keep(reading.form, records, name).records) == len(records) > 10


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the tasks' real files are not here")
@pytest.mark.parametrize("name", sorted(set(REAL) - {"ag_news", "mr", "self-instruct", "self-instruct-chat"}))
def test_every_task_reads_its_usual_files(name: str) -> None:
    form = read_form(FormOptions(task=name), SHARED / "data" / name).form
    assert form.max_tokens is None  # the data have their own bounds
    for part in PARTS:
        records = form.records(SHARED / "data" / name, part)
        assert len(records) > 10
        for number, record in records:
            assert form.text(record).strip(), number
            assert not form.labels or record["label"] in dict(form.labels)
