"""Files as people have them: each shape is read as the same rows, or refused in a sentence that says what to do."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prge.commands.data import look_at
from prge.errors import UserError
from prge.examples.detect import FormOptions, Unsure, read_form
from prge.examples.form import Form
from prge.examples.json_shapes import with_class_names
from prge.examples.keep import classes_as_text, classes_of, keep, read_kept
from prge.examples.read import Record, part_file, read_file

PLACES = ("harbour", "library", "bakery", "garage", "museum", "clinic", "market", "stadium")
# (text, label)
ROWS = [(f"The {p}, on street {i}, was calm", ("good", "bad")[i % 2]) for i, p in enumerate(PLACES * 4)]
# (question, answer)
ASKED = [(f"Where is the {p}?", f"At gate {i}.") for i, p in enumerate(PLACES * 3)]
NAMED = [{"text": text, "label": label} for text, label in ROWS]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: Sequence[dict[str, Any]], separator: str = ",", **options: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n", **options)
    writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    return out.getvalue()


def labelled(label: str, values: Sequence[Any] = ("good", "bad"), text: str = "text") -> str:
    return jsonl(*({text: a, label: values[i % len(values)]} for i, (a, _) in enumerate(ROWS)))


def chats(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def cell(text: str, encoding: str) -> bytes:
    return f"text,label\n{text},x\n".encode(encoding)


def conversations(row: Any) -> str:
    return jsonl(*(row(q, a) for q, a in ASKED))


def without(line: int, text: str) -> str:
    """A file with a line that is none of it."""
    lines = text.splitlines(keepends=True)
    return "".join([*lines[: line - 1], "oops\n", *lines[line - 1 :]])


SERVED = {
    "features": [
        {"feature_idx": 0, "name": "text", "type": {"dtype": "string", "_type": "Value"}},
        {"feature_idx": 1, "name": "label", "type": {"names": ["good", "bad"], "_type": "ClassLabel"}},
    ],
    "rows": [
        {"row_idx": i, "row": {"text": a, "label": i % 2}, "truncated_cells": []} for i, (a, _) in enumerate(ROWS)
    ],
}

# What holds the rows of ROWS: a name -> (its end, its content)
SAME: dict[str, tuple[str, str | bytes]] = {
    "quoted newlines and commas": (".csv", table(NAMED, quoting=csv.QUOTE_ALL)),
    "spaces behind the commas": (".csv", "text, label\n" + "".join(f'"{a}", "{b}"\n' for a, b in ROWS)),
    "separators at the lines' ends": (".csv", table(NAMED).replace("good\n", "good,\n").replace("bad\n", "bad,\n")),
    "lines of nothing but separators": (".csv", table(NAMED) + ",\n,\n"),
    "a title above the header": (".csv", "My export of May\n\n" + table(NAMED)),
    "a comment above the header": (".csv", "# made by a tool\n" + table(NAMED)),
    "an index without a name": (".csv", table([{"": i, **row} for i, row in enumerate(NAMED)])),
    "columns that are only numbered": (".csv", table(NAMED).replace("text,label", "0,1")),
    "an index and numbered columns": (
        ".csv", table([{"": i, **row} for i, row in enumerate(NAMED)]).replace(",text,label", ",0,1"),
    ),
    "tabs, all quoted": (".tsv", table(NAMED, "\t", quoting=csv.QUOTE_ALL)),
    "bars by the name": (".psv", table(NAMED, "|")),
    "a table of commas named as text": (".txt", table(NAMED)),
    "a table of bars named as text": (".txt", table(NAMED, "|")),
    "old ends of lines": (".csv", table(NAMED).replace("\n", "\r")),
    "fastText": (".txt", "".join(f"__label__{b} {a}\n" for a, b in ROWS)),
    "UTF-16 without a mark": (".csv", table(NAMED).encode("utf-16-be")),
    "UTF-32": (".csv", table(NAMED).encode("utf-32")),
    "gzip by its content": (".csv", gzip.compress(table(NAMED).encode())),
    "JSON Lines by another name": (".jsonlines", jsonl(*NAMED)),
    "lists with one label": (".jsonl", jsonl(*({**row, "label": [row["label"]]} for row in NAMED))),
    "an object with data": (".json", json.dumps({"version": "1", "data": NAMED})),
    "an object in an object": (".json", json.dumps({"result": {"items": NAMED}})),
    "train and test in an object": (".json", json.dumps({"train": NAMED, "test": NAMED[:3]})),
    "the hub's rows": (".json", json.dumps(SERVED)),
    "rows within rows": (".jsonl", jsonl(*({"id": i, "data": row} for i, row in enumerate(NAMED)))),
    "pandas, by column": (
        ".json", json.dumps({c: {str(i): row[c] for i, row in enumerate(NAMED)} for c in ("text", "label")}),
    ),
    "pandas, by row": (".json", json.dumps({str(i): row for i, row in enumerate(NAMED)})),
    "pandas, split": (".json", json.dumps({"columns": ["text", "label"], "index": [], "data": ROWS})),
    "pandas, lists": (".json", json.dumps({"text": [a for a, _ in ROWS], "label": [b for _, b in ROWS]})),
    "rows by name": (".json", json.dumps({f"id-{i}": row for i, row in enumerate(NAMED)})),
    "rows of cells": (".json", json.dumps(ROWS)),
    "rows of cells under names": (".json", json.dumps([["text", "label"], *ROWS])),
    "a comma behind the last row": (".json", "[" + ",\n".join(map(json.dumps, NAMED)) + ",\n]"),
    "a list that is never closed": (".json", "[" + ",\n".join(map(json.dumps, NAMED))),
    "commas behind the lines": (".jsonl", jsonl(*NAMED).replace("}\n", "},\n")),
    "objects without lines": (".jsonl", jsonl(*NAMED).replace("\n", "")),
    "one line that is no JSON": (".jsonl", without(9, jsonl(*NAMED))),
    "a line that is cut off": (".jsonl", jsonl(*NAMED) + '{"text": "an'),
    "one line of another length": (".csv", without(9, table(NAMED))),
    "a sum below": (".csv", table(NAMED) + "Total: 32\n"),
    "one text that is a list": (".jsonl", jsonl(*NAMED[:9], {"text": ["x"], "label": "good"}, *NAMED[9:])),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_shapes_hold_the_same_rows(name: str, tmp_path: Path) -> None:
    end, content = SAME[name]
    path = tmp_path / f"a{end}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    form = read_form(FormOptions(), path).form
    assert form == Form("{text}\nLabel:", (("bad", ""), ("good", "")), "label")
    assert [(r["text"], r["label"]) for _, r in read_kept(form, path).records] == ROWS
    assert not look_at(path)["unsure"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("one line that is no JSON", r"left out for what cannot be read, not a JSON object \(.*\): 1 row \(line 9\)"),
        ("a line that is cut off", r"left out for what cannot be read, not a JSON object \(.*\): 1 row \(line 33\)"),
        (
            "one line of another length",
            r"left out for what cannot be read, 1 columns where 2 were expected \(text, label\): 1 row \(line 9\)",
        ),
        ("one text that is a list", r"what cannot be read, column 'text' holds a list.*: 1 row \(line 10\)"),
        ("a list that is never closed", "the file's list is never closed: it may have been cut off"),
        ("train and test in an object", "of the lists train, test, 'train' is read"),
        ("a title above the header", "line 3 is taken for the header; what stands above it is not read"),
    ],
)
def test_what_was_mended_is_said(name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{SAME[name][0]}"
    path.write_text(str(SAME[name][1]))
    found = look_at(path)
    assert re.search(told, "\n".join([*found["left_out"], *found["notes"]]))


def test_a_few_broken_rows_are_left_out_and_many_refused(tmp_path: Path) -> None:
    """One in twenty may be; with more of them the file is something else."""
    path = tmp_path / "a.jsonl"
    for good, bad, fits in ((19, 1, True), (18, 1, False), (38, 2, True), (37, 2, False)):
        path.write_text(jsonl(*(NAMED * 2)[:good]) + "oops\n" * bad)
        if fits:
            contents = read_file(path)
            assert len(contents.rows) == good and sum(map(len, contents.broken.values())) == bad
            with pytest.raises(UserError, match=f"line {good + 1}: not a JSON object"):  # each answer has its row
                Form().records(path)
        else:
            with pytest.raises(UserError, match=f"line {good + 1}: not a JSON object"):
                read_file(path)


TURNS = "user: Where is the harbour?\nassistant: "
GATE = "At gate 0."
# name -> (a file's lines, its format, the first example's prompt, what is learned of it)
READ: dict[str, tuple[str, str, str, str]] = {
    **{
        f"a class called {name}": (
            labelled(name), "labels", f"{ROWS[0][0]}\n{name.replace('_', ' ').capitalize()}:", " good"
        )
        for name in (
            "Label", "category", "intent", "sentiment", "class", "Class", "y", "tag", "polarity", "verdict", "topic",
            "gold_label", "airline_sentiment", "Intent Name", "label_id", "type",
        )
    },
    "a class called target": (labelled("target", (0, 1)), "text-to-text", f"{ROWS[0][0]}\nTarget:", " 0"),
    "stars": (labelled("stars", (1, 2, 3)), "labels", f"{ROWS[0][0]}\nStars:", " 1"),
    "truth values": (labelled("toxic", (True, False)), "labels", f"{ROWS[0][0]}\nToxic:", " true"),
    "floats": (labelled("label", (0.0, 1.0)), "labels", f"{ROWS[0][0]}\nLabel:", " 0.0"),
    "several labels at once": (
        labelled("labels", (["joy", "fear"], ["joy"])), "labels", f"{ROWS[0][0]}\nLabels:", " joy, fear",
    ),
    "numbers of labels in lists": (labelled("labels", ([4], [7])), "labels", f"{ROWS[0][0]}\nLabels:", " 4"),
    "camel case, a user, a day": (
        jsonl(*(
            {"reviewerID": f"A{i}", "reviewText": a, "overall": i % 5 + 1, "unixTime": i} for i, (a, _) in
            enumerate(ROWS)
        )),
        "labels", f"{ROWS[0][0]}\nOverall:", " 1",
    ),
    "who wrote it is no class": (
        jsonl(*({"text": a, "author": "xy"[i % 2], "lang": "en"} for i, (a, _) in enumerate(ROWS))),
        "text", "", ROWS[0][0],
    ),
    "questions by a letter": (
        jsonl(*({"Q": q, "A": a} for q, a in ASKED)), "question-answer", "Where is the harbour?\nA:", f" {GATE}",
    ),
    "answers as a list": (
        jsonl(*({"question": q, "answer": [a, a.upper()]} for q, a in ASKED)),
        "question-answer", "Where is the harbour?\nAnswer:", f" {GATE}",
    ),
    "squad, flat": (
        jsonl(*({"context": f"{a} {q}", "question": q, "answer_text": a, "answer_start": 0} for q, a in ASKED)),
        "question-answer", f"Context: {GATE} Where is the harbour?\nQuestion: Where is the harbour?\nAnswer text:",
        f" {GATE}",
    ),
    "choices by their letters": (
        jsonl(*(
            {"question": q, "options": {"A": "there", "B": a}, "answer": "AB"[i % 2]} for i, (q, a) in
            enumerate(ASKED)
        )),
        "choices", "Where is the harbour?\nAnswer:", " there",
    ),
    "a row of Super-NaturalInstructions": (
        json.dumps({"Definition": ["x"], "Instances": [{"id": str(i), "input": q, "output": [a]} for i, (q, a) in
                                                       enumerate(ASKED)]}),
        "text-to-text", "Where is the harbour?\nOutput:", f" {GATE}",
    ),
    "where a row is from is no part of the prompt": (
        jsonl(*({"question": q, "Best Answer": a, "Source": "https://example.org"} for q, a in ASKED)),
        "text-to-text", "Where is the harbour?\nBest answer:", f" {GATE}",
    ),
    "user and bot": (
        jsonl(*({"human": q, "bot": a} for q, a in ASKED)), "text-to-text", "Where is the harbour?\nBot:", f" {GATE}",
    ),
    "texts as JSON": (json.dumps([a for a, _ in ROWS]), "text", "", ROWS[0][0]),
    "texts beside what describes them": (
        jsonl(*({"text": a, "meta": {"page": i}} for i, (a, _) in enumerate(ROWS))), "text", "", ROWS[0][0],
    ),
    "chat: a list of conversations": (
        json.dumps([chats(("user", q), ("assistant", a)) for q, a in ASKED]), "messages", TURNS, GATE,
    ),
    "chat: lists in lines": (
        conversations(lambda q, a: chats(("user", q), ("assistant", a))), "messages", TURNS, GATE,
    ),
    "chat: capital roles and names": (
        conversations(lambda q, a: {"Messages": [{"Role": "User", "Content": q}, {"Role": "Assistant", "Content": a}]}),
        "messages", TURNS, GATE,
    ),
    "chat: customer and agent": (
        conversations(lambda q, a: {"messages": chats(("customer", q), ("agent", a))}), "messages", TURNS, GATE,
    ),
    "chat: model": (
        conversations(lambda q, a: {"chat": chats(("user", q), ("model", a))}), "sharegpt", TURNS, GATE,
    ),
    "chat: speakers and texts": (
        conversations(lambda q, a: {"turns": [{"speaker": "human", "text": q}, {"speaker": "bot", "text": a}]}),
        "sharegpt", TURNS, GATE,
    ),
    "chat: senders": (
        conversations(lambda q, a: {"uuid": "1", "name": q, "chat_messages": [
            {"sender": "human", "text": q}, {"sender": "assistant", "text": a},
        ]}),
        "sharegpt", TURNS, GATE,
    ),
    "chat: Gemini's": (
        conversations(lambda q, a: {"contents": [
            {"role": "user", "parts": [{"text": q}]}, {"role": "model", "parts": [{"text": a}]},
        ]}),
        "sharegpt", TURNS, GATE,
    ),
    "chat: Gemini's, with a system text": (
        conversations(lambda q, a: {"systemInstruction": {"parts": [{"text": "Be brief."}]}, "contents": [
            {"role": "user", "parts": [{"text": q}]}, {"role": "model", "parts": [{"text": a}]},
        ]}),
        "sharegpt", "system: Be brief.\n" + TURNS, GATE,
    ),
    "chat: what each says in one object": (
        conversations(lambda q, a: {"conversation": [{"human": q, "assistant": a}]}), "sharegpt", TURNS, GATE,
    ),
    "chat: texts in turn": (conversations(lambda q, a: {"dialog": [q, a]}), "sharegpt", TURNS, GATE),
    "chat: a prompt of messages and a text": (
        conversations(lambda q, a: {"prompt": chats(("user", q)), "answer": a}), "conversational", TURNS, GATE,
    ),
    "chat: a pair behind a conversation": (
        conversations(lambda q, a: {
            "conversations": [{"from": "human", "value": q}], "chosen": {"from": "gpt", "value": a},
            "rejected": {"from": "gpt", "value": "No."},
        }),
        "sharegpt", TURNS, GATE,
    ),
    "chat: as Python writes it": (
        table([{"id": i, "messages": repr(chats(("user", q), ("assistant", a)))} for i, (q, a) in enumerate(ASKED)]),
        "messages", TURNS, GATE,
    ),
    "chat: a weight of 0": (
        conversations(lambda q, a: {"messages": [
            *chats(("user", q)), {"role": "assistant", "content": "No.", "weight": 0},
            *chats(("user", q), ("assistant", a)),
        ]}),
        "messages", TURNS + "No.\n" + TURNS, GATE,
    ),
    "chat: the older calls of functions": (
        conversations(lambda q, a: {"functions": [{"name": "f"}], "messages": [
            *chats(("user", q)), {"role": "assistant", "content": None, "function_call": {
                "name": "f", "arguments": "{}",
            }}, {"role": "function", "name": "f", "content": "1"}, *chats(("assistant", a)),
        ]}),
        "messages", 'tools: [{"type": "function", "function": {"name": "f"}}]\n' + TURNS,
        '[{"type": "function", "function": {"name": "f", "arguments": {}}}]',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_kinds_are_read(name: str, tmp_path: Path) -> None:
    content, kind, prompt, learned = READ[name]
    path = tmp_path / ("a.csv" if content.startswith("id,") else "a.jsonl")
    path.write_text(content)
    found = look_at(path)
    first = found["first"][0]
    assert (found["format"], first["prompt"], first["learned"]) == (kind, prompt, learned)
    assert not found["unsure"]


IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *chats(("assistant", "x"))]}
# name -> (the file's end, its content, what is said)
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "scores": (".jsonl", labelled("score", range(100)), "32 different numbers.*--format text"),
    "labels as objects": (".jsonl", labelled("label", ({"a": 1}, {"a": 2})), "what is to be learned from .* label"),
    "labels by name": (".jsonl", labelled("cats", ({"POS": 1},)), "what is to be learned from .* cats"),
    "lists without a text": (".jsonl", jsonl(*({"name": f"{p} 1", "parts": ["x"]} for p in PLACES)), "to be learned"),
    "thousands of columns": (".json", json.dumps({f"key {i}": "x" for i in range(500)}), "key 19, and 480 more"),
    "two languages": (
        ".jsonl", jsonl(*({"translation": {"en": q + a, "de": a}} for q, a in ASKED)), "en, de are near;.*--text en",
    ),
    "one message a row": (
        ".csv", table([{"chat": i // 2, "role": ("user", "assistant")[i % 2], "content": a} for i, (a, _) in
                       enumerate(ROWS)]),
        "each row is one message.*put the messages of each into one row",
    ),
    "people's names": (
        ".json", json.dumps({"name": "Ben", "messages": [{"from": who, "text": "Hi"} for who in ("Anna", "Ben")]}),
        "role 'anna' is none of .*; write user for who asks",
    ),
    "images in all": (".jsonl", jsonl(*[IMAGE] * 9), "line 1, message 1: .*image_url.*; 9 of 9 rows cannot be read"),
    "commas in many texts": (
        ".csv", "text,label\n" + "".join(f"{a},{b}\n" for a, b in ROWS), "line 2: 4 columns where 2 .*between quotes",
    ),
    "an open quote": (".csv", 'text,label\n"a,good\nb,bad\n', "line 3: unexpected end of data"),
    "Shift-JIS": (".csv", cell("とても良い", "shift_jis"), "may be SHIFT_JIS.*'とても良い,x'.*iconv"),
    "EUC-JP": (".csv", cell("とても良い", "euc_jp"), "may be EUC-JP.*iconv -f EUC-JP"),
    "GBK": (".csv", cell("今天天气很好", "gbk"), "may be GB18030.*iconv -f GB18030"),
    "Korean": (".csv", cell("정말 재미있었어요", "cp949"), "may be EUC-KR.*iconv -f EUC-KR"),
    "Windows-1251": (".csv", cell("Привет мир", "cp1251"), "WINDOWS-1251, in which it reads 'П"),
    "KOI8-R": (".csv", cell("Привет мир", "koi8-r"), "KOI8-R, in which it reads 'П"),
    "a workbook": (".xlsx", b"PK\x03\x04", "save the sheet as CSV"),
    "a workbook by another name": (".csv", b"PK\x03\x04" + bytes(99), "a ZIP archive or an office document"),
    "an Arrow file": (".arrow", b"ARROW1", "write it as .parquet or .jsonl"),
    "a web page": (".csv", "<!DOCTYPE html>\n<html>", "is a web page, not the data: download the file itself"),
    "a pointer": (".jsonl", "version https://git-lfs.github.com/spec/v1\noid x\n", "`git lfs pull`"),
    "an empty object": (".json", "{}", "holds no examples"),
    "nothing but broken lines": (".jsonl", '{"text": "a"}\nx\ny\n', "line 2: .*; 2 of 3 rows cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_what_to_do(name: str, tmp_path: Path) -> None:
    end, content, message = REFUSED[name]
    path = tmp_path / f"a{end}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_form(FormOptions(), path).form.records(path)


def test_quotes_may_have_a_backslash(tmp_path: Path) -> None:
    rows = [{"text": f'He said "{a}" twice', "label": b} for a, b in ROWS]
    escaped = "".join('"{}",{}\n'.format(row["text"].replace('"', '\\"'), row["label"]) for row in rows)
    (tmp_path / "a.csv").write_text("text,label\n" + escaped)
    assert [row for _, row in read_file(tmp_path / "a.csv").rows] == rows


def test_an_exported_chat_is_text_and_that_is_said(tmp_path: Path) -> None:
    for at in ("[31.12.23, 22:{:02}:01] {}: {}", "12/31/23, 10:{:02} PM - {}: {}"):
        lines = [at.format(i, ("Anna", "Ben")[i % 2], f"word {i}") for i in range(40)]
        (tmp_path / "a.txt").write_text("\n".join(lines))
        found = look_at(tmp_path / "a.txt")
        assert found["format"] == "text" and found["examples"] == 40
        assert any("an exported chat" in note and '"messages"' in note for note in found["notes"])


def test_lines_are_texts_where_no_empty_line_divides_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\none\ntwo\n\n")
    assert read_file(tmp_path / "a.txt").rows == [(2, {"text": "one"}), (3, {"text": "two"})]
    (tmp_path / "a.md").write_text("# One\n\ntwo\nthree\n")
    assert read_file(tmp_path / "a.md").rows == [(1, {"text": "# One"}), (3, {"text": "two\nthree"})]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Привет, мир", "今天天气一起很好", "Καλημέρα κόσμε", "שלום עולם", "a café"])
def test_utf_16_is_known_without_a_mark(text: str, encoding: str, tmp_path: Path) -> None:
    rows = [{"text": f"{text} {i}", "label": "ab"[i % 2]} for i in range(20)]
    for name, content in (("a.csv", table(rows)), ("a.jsonl", jsonl(*rows))):
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert [row for _, row in read_file(tmp_path / name).rows] == rows


def test_numbers_as_pandas_writes_them_are_the_same_class(tmp_path: Path) -> None:
    assert classes_of(["1", "1.0", "0", "0.0", "0"]).spellings == {
        "0": [("0", 2), ("0.0", 1)], "1": [("1", 1), ("1.0", 1)],
    }  # fmt: skip
    assert not classes_of(["1", "01", "1.5", "2"]).spellings
    assert classes_of(["a ", "a ", "a"]).names == ["a"]  # the name of a class has no white space around it


def test_classes_that_are_learned_as_text_are_merged_too(tmp_path: Path) -> None:
    """More classes than there are words: their names are learned as text, in one spelling."""
    names = [f"{kind} number {i}" for i in range(15) for kind in ("order", "refund")]
    spelled = [(name, name.title())[i % 3 == 0] for i in range(3) for name in names]
    rows = [{"text": f"call {i}", "intent": label} for i, label in enumerate([*spelled, "null", ""])]
    (tmp_path / "a.jsonl").write_text(jsonl(*rows))
    with pytest.raises(Unsure, match="labels in column 'intent' differ by case or white space alone"):
        read_form(FormOptions(), tmp_path / "a.jsonl")
    whole = read_form(FormOptions(merge_labels=True), tmp_path / "a.jsonl").form
    form = replace(whole, labels=(), target=" {intent}")
    assert len(whole.labels) == 30 and classes_as_text(form) == "intent"
    for each in (whole, form):
        kept = read_kept(each, tmp_path / "a.jsonl")
        assert {record["intent"] for _, record in kept.records} == set(names) and len(kept.records) == 90
        assert kept.left_out == {"having no label": [91, 92]} and len(kept.merged) == 30
    answers = Form("{question}\nAnswer:", target=" {answer}")  # free text is as it is
    said: list[tuple[int, Record]] = [(1, {"question": "?", "answer": "Yes"}), (2, {"question": "!", "answer": "yes"})]
    assert keep(answers, said, "a").records == said


def test_classes_that_are_numbers_may_be_given_words(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(labelled("y", (0, 1)))
    (note,) = (note for note in look_at(path)["notes"] if "the classes are numbers" in note)
    assert note.endswith("--label y --label '0= WORD' --label '1= WORD'")
    form = read_form(FormOptions(label=("y", "0= bad", "1= good")), path).form
    assert (form.label_column, form.labels) == ("y", (("0", " bad"), ("1", " good")))


def test_class_names_that_stand_elsewhere_are_taken() -> None:
    rows: list[dict[str, Any]] = [{"text": "x", "label": 1}, {"text": "y", "label": -1}, {"text": "z"}]
    features = {"text": {"dtype": "string"}, "label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    assert with_class_names(rows, features) == [{"text": "x", "label": "good"}, *rows[1:]]
    assert with_class_names(rows, None) == rows


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["train.csv", "test.csv", "validation.csv", "README.md"], "train.csv"),
        (["mine.jsonl"], "mine.jsonl"),
        (["mine.jsonl", "README.md", "dataset_infos.json"], "mine.jsonl"),
        (["my_train_set.csv", "my_eval.csv"], "my_train_set.csv"),
        (
            ["train-0.jsonl", "train-1.jsonl"],
            "several files for train: train-0.jsonl, train-1.jsonl; put them",
        ),
        (["a.csv", "b.csv"], "no train file, but a.csv, b.csv; name the file itself"),
        (["data/train.csv"], "no train file, but data/; name the file itself"),
        (["test.csv"], "no train file, but test.csv"),
        ([], "no train file, but no data at all"),
    ],
)
def test_folders(files: list[str], found: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    if found in files:
        assert part_file(tmp_path, "train").name == found
    else:
        with pytest.raises(UserError, match=re.escape(found)):
            part_file(tmp_path, "train")
