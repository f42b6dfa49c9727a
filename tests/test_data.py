"""Data: formats, what is refused and how, splits, batches, rows."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prge.errors import UserError
from prge.examples.form import Form, split, template_columns
from prge.examples.read import Record, as_text, read_records
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.runtime_driver.data.batches import batches, collate
from prge.runtime_driver.data.encoder import Encoder, check_classes, without
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.program.step import StepProgram


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one, \\"1\\"", "label": 0}\n\n{"text": "two", "label": "1"}\n'),
        ("a.csv", 'text,label\n"one, ""1""",0\ntwo,1\n'),
        ("a.tsv", 'text\tlabel\none, "1"\t0\ntwo\t1\n'),
        ("bare.tsv", 'one, "1"\t0\ntwo\t1\n'),
    ],
)
def test_formats_agree(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    rows = [record for _, record in read_records(tmp_path / name)]
    assert rows == [{"text": 'one, "1"', "label": "0"}, {"text": "two", "label": "1"}]


def test_a_header_is_known_by_any_of_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("review\tstars\nfine\t4\n")
    expected = [(2, {"review": "fine", "stars": "4"})]
    assert read_records(tmp_path / "a.tsv", ["review", "label"]) == expected
    (tmp_path / "a.tsv").write_text("fine\t4\n")
    assert read_records(tmp_path / "a.tsv", ["review", "stars"]) == [(1, expected[0][1])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": ', "line 2: not a JSON object"),
        ("a.jsonl", "[1]\n", "record 1: a list of JSON objects was expected"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: a JSON object was expected"),
        ("a.csv", "text,label\na,0\nb\n", "line 3: 1 columns where 2 were expected"),
        ("a.tsv", "a\t0\nb\t1\tc\n", "line 2: 3 columns"),
        ("a.csv", 'text,label\n"a,0\n', "line"),
        ("a.jsonl", "", "holds no examples"),
        ("a.xlsx", "x", "unknown kind"),
        ("a.json", "[1]", "a list of JSON objects"),
        ("a.json", "{", "not JSON"),
        ("a.jsonl", b'{"text": "\xcf\xf0\xe8\xe2\xe5\xf2"}', "not UTF-8"),
    ],
)
def test_malformed_files_name_the_place(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_records(path)


@given(st.binary(max_size=200), st.sampled_from(["jsonl", "json", "csv", "tsv", "txt"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str) -> None:
    path = tmp_path_factory.mktemp("data") / f"a.{kind}"
    path.write_bytes(content)
    try:
        assert read_records(path)
    except UserError as e:
        assert str(path) in str(e)


@pytest.fixture(scope="module")
def encoder(program_folder: Path) -> Encoder:
    return Encoder(StepProgram(program_folder).manifest, program_folder / "tokenizer.json")


def test_examples_are_the_template_s_tokens(encoder: Encoder) -> None:
    example = encoder.example({"text": "call me", "label": "later"})
    assert encoder.tokenizer.decode(list(example.tokens)) == "call me Reply"
    assert example.label == 1


def test_refusals_say_what_and_where(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "label": "today"}\n{"text": "x", "label": "never"}\n')
    with pytest.raises(UserError, match="line 2: unknown label 'never'; the program knows today, later"):
        encoder.examples(path)
    path.write_text('{"body": "x", "label": "today"}\n')
    with pytest.raises(UserError, match=r"no column 'text'.*it has body, label"):
        encoder.examples(path)
    path.write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match="no column 'label'"):
        encoder.examples(path)
    path.write_text('{"text": "%s", "label": "today"}\n{"text": "x", "label": "later"}\n' % ("many words " * 60))
    with pytest.raises(UserError, match="1 of 2 texts are longer than the program's 40 tokens; use --truncate"):
        encoder.examples(path)
    path.write_text('{"text": "x", "label": "later"}\n')
    with pytest.raises(UserError, match="every example has the label 'later'"):
        check_classes(encoder.examples(path), encoder.form, path)


def test_truncation_keeps_the_end(program_folder: Path, encoder: Encoder) -> None:
    cut = Encoder(encoder.manifest, program_folder / "tokenizer.json", truncate=True)
    whole = cut.example({"text": "many words " * 60, "label": "today"})
    assert cut.fit(whole).tokens == whole.tokens[-40:]


# form -> (what its manifest says, rows to learn from, rows with nothing to learn)
NOTHING: dict[str, tuple[dict[str, Any], list[Record], list[Record]]] = {
    "plain text": (
        {"template": "", "target": "{text}"},
        [{"text": f"{i} times: call me back"} for i in range(5)],
        [{"text": "a"}, {"text": ""}],
    ),
    "text to text": (
        {"template": "{text}:", "target": "{reply}"},
        [{"text": f"number {i}", "reply": "call me"} for i in range(5)],
        [{"text": "call me", "reply": ""}],
    ),
    "choices": (
        {"template": "{text}:", "target": "{choice}", "choices": "choices"},
        [{"text": f"number {i}", "choices": ["call me", "later"], "label": "AB"[i % 2]} for i in range(5)],
        [{"text": "x", "choices": ["call me", ""], "label": "A"}, {"text": "x", "choices": ["", "x"], "label": "B"}],
    ),
    "label words": (
        {"template": "{text}"},
        [{"text": f"call me, number {i}", "label": ("today", "later")[i % 2]} for i in range(5)],
        [{"text": "", "label": "today"}],
    ),
}


def nothing(name: str, encoder: Encoder, folder: Path) -> tuple[Manifest, Encoder, list[Record], list[Record]]:
    """(manifest, encoder, rows to learn from, rows with nothing to learn) of a form."""
    settings, full, empty = NOTHING[name]
    if "target" in settings:
        settings = {"objective": "language-modelling", "labels": (), "max_targets": 4, **settings}
    manifest = replace(encoder.manifest, **settings)
    return manifest, Encoder(manifest, folder / "tokenizer.json"), full, empty


def write_rows(path: Path, rows: list[Record]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", NOTHING)
def test_texts_with_nothing_to_learn_are_skipped_and_counted(
    name: str, encoder: Encoder, program_folder: Path, tmp_path: Path
) -> None:
    _, found, full, empty = nothing(name, encoder, program_folder)
    expected = found.examples(write_rows(tmp_path / "full.jsonl", full))
    assert found.skipped == 0 and len(expected) >= len(full)
    mixed = write_rows(tmp_path / "mixed.jsonl", [*empty, *full, *empty])
    assert found.examples(mixed) == expected
    assert found.skipped == 2 * len(empty)
    alone = write_rows(tmp_path / "alone.jsonl", empty)
    with pytest.raises(UserError, match=r"alone\.jsonl: (none of its . texts holds anything|nothing is left) to learn"):
        found.examples(alone)


@pytest.mark.parametrize("name", NOTHING)
def test_a_run_leaves_out_what_holds_nothing_to_learn(
    name: str, encoder: Encoder, program_folder: Path, tmp_path: Path
) -> None:
    """Also where the share that is split off for evaluation holds nothing else."""
    manifest, _, full, empty = nothing(name, encoder, program_folder)
    data, dev = write_rows(tmp_path / "a.jsonl", [*empty, *full]), write_rows(tmp_path / "b.jsonl", empty)
    held = set()
    for seed in range(12):
        found = Encoder(manifest, program_folder / "tokenizer.json")
        train, evaluated, dropped = Source(str(data), dev_fraction=0.01, seed=seed).read(found)
        assert train and not dropped and found.skipped == len(empty)
        held.add(bool(evaluated))
    # Without its whole text or answer a record is left out before the division.
    assert held == ({True} if name in ("text to text", "label words") else {False, True})
    with pytest.raises(UserError, match=r"b\.jsonl: (none of its|nothing is left)"):
        Source(str(data), str(dev)).read(Encoder(manifest, program_folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"b\.jsonl: (none of its|nothing is left)"):
        Source(str(dev), str(data)).read(Encoder(manifest, program_folder / "tokenizer.json"))


ODD_VALUES = [["x", 1], {"a": ["b"]}, 5, 1.5, None, True, "", []]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=repr)
def test_predictions_show_the_template_s_columns(
    odd: Any, prge: Callable[..., tuple[int, Any]], program_folder: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "a.jsonl", [{"id": odd, "text": "call me", "more": odd}, {"text": "call me", "id": 7}])
    code, printed = prge("predict", program_folder, "--data", data)
    assert code == 0 and [p["text"] for p in printed["predictions"]] == ["call me", "call me"]
    code, printed = prge("predict", program_folder, "--data", write_rows(data, [{"text": odd}]))
    if isinstance(odd, (list, dict)):
        assert code == 1 and "a.jsonl, line 1: column 'text' holds a " in printed["error"]
    else:
        assert code == 0 and printed["predictions"][0]["text"] == (
            "" if odd is None else odd if isinstance(odd, str) else json.dumps(odd)
        )


def test_a_record_is_shown_by_its_prompt_s_columns() -> None:
    record = {"id": ["x"], "hypothesis": "b", "premise": "a", "label": "yes"}
    assert Form("{premise} so {hypothesis}? {premise}", (("yes", " yes"), ("no", " no"))).shown(record) == "a b"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["a", "b"], ["a", "b"]), ([], [" c"]), ("ab", [" c"]), ([1], [" c"]), ({"text": ["a"]}, [" c"]), (None, [" c"])],
    ids=repr,
)
def test_the_gold_answers_are_texts(answers: Any, expected: list[str]) -> None:
    assert Form("{text}", target=" {reply}").golds({"reply": "c", "answers": answers}, "here") == expected


def test_dates_and_the_like_are_text() -> None:
    row = {"a": datetime.date(2024, 5, 1), "b": Decimal("1.50"), "c": b"x", "d": 1, "e": None, "f": [1], "g": "x"}
    expected = {"a": "2024-05-01", "b": "1.50", "c": "b'x'", "d": "1", "e": "", "f": [1], "g": "x"}
    assert as_text(row) == expected


def test_templates() -> None:
    assert template_columns("{premise} so {hypothesis}?") == ["premise", "hypothesis"]
    for bad in ("{", "{0}", "{}", "{a.b}", "{a[0]}"):
        with pytest.raises(UserError, match="template"):
            template_columns(bad)


def make(n: int, duplicates: int = 0) -> list[Example]:
    distinct = [Example((*range(1, 2 + i * 7 % 23), i), i % 3 % 2) for i in range(n)]
    return distinct + distinct[:duplicates]


@given(st.integers(2, 60), st.integers(0, 30), st.floats(0.05, 0.8), st.integers(0, 5))
def test_split_keeps_equal_examples_together(n: int, duplicates: int, fraction: float, seed: int) -> None:
    """Rows with two records each, the first of which may be another row's too."""
    rows: list[Record] = [{"text": str(i)} for i in (*range(n), *range(duplicates))]
    data = [(i, record) for i, row in enumerate(rows) for record in (row, {"text": f"{i} goes on"})]
    train, dev = split(data, lambda record: str(record["text"]), fraction, seed)
    assert sorted(train + dev, key=data.index) == data and dev
    assert not {i for i, _ in train} & {i for i, _ in dev}
    assert not {rows[i]["text"] for i, _ in train} & {rows[i]["text"] for i, _ in dev}


def test_examples_of_dev_are_left_out_of_training() -> None:
    data = make(9, 3)
    assert without(data, data[:3]) == data[3:9]


@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_has_every_example(n: int, size: int, seed: int) -> None:
    data = make(n)
    per_epoch = -(-n // size)
    got = list(islice(batches(data, size, seed), 2 * per_epoch))
    assert all(len(batch) == size for batch in got)
    for epoch in (got[:per_epoch], got[per_epoch:]):
        assert {i for batch in epoch for i in batch} == set(range(n))
    assert got == list(islice(batches(data, size, seed), 2 * per_epoch))


def test_batches_are_balanced_and_of_like_length() -> None:
    data = make(600)
    share = sum(e.label for e in data) / len(data)
    got = list(islice(batches(data, 12, 0), 50))
    assert max(abs(sum(data[i].label for i in batch) - 12 * share) for batch in got) <= 2
    padded = sum(max(len(data[i].tokens) for i in batch) * len(batch) for batch in got)
    assert padded < 1.35 * sum(len(e.tokens) for e in data)
    assert len(Counter(tuple(batch) for batch in islice(batches(data, 12, 1), 50)) & Counter(map(tuple, got))) < 5


def test_collate_pads_right_and_points_at_the_last_token(encoder: Encoder) -> None:
    tokens, (position, label) = collate([Example((5, 6, 7), 1), Example((8,), 0)], encoder.manifest)
    assert tokens.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]  # at least four columns, the program's minimum
    assert position.tolist() == [[2], [0]] and label.tolist() == [1, 0]
