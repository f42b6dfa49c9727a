"""Every task: from a file in its usual format, and from the hub's columns, to prompts and answers."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prge.errors import UserError
from prge.examples.form import Form
from prge.examples.read import part_file
from prge.examples.tasks import TASKS
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.step import StepProgram

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


PASSAGE = {
    "text": "<b>Sent 1: </b>Ann met Bo.<br>",
    "questions": [
        {"question": "Who?", "answers": [{"text": "Bo", "idx": 0, "label": 1}, {"text": "Cy", "idx": 1, "label": 0}]}
    ],
}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Rome",
            "paragraphs": [
                {
                    "context": "Rome is old.",
                    "qas": [
                        {"id": "1", "question": "What is old?", "answers": [{"text": "Rome", "answer_start": 0}] * 2},
                        {"id": "2", "question": "Who?", "answers": []},
                    ],
                }
            ],
        }
    ],
}
NO_DATE = {"day": "", "month": "", "year": ""}
DROP = {
    "nfl_1": {
        "passage": "They won 3 to 1.",
        "qa_pairs": [
            {"question": "By how many?", "answer": {"number": "2", "date": NO_DATE, "spans": []}},
            {
                "question": "When?",
                "answer": {"number": "", "date": {"day": "4", "month": "May", "year": ""}, "spans": []},
                "validated_answers": [{"number": "", "date": NO_DATE, "spans": ["May", "4"]}],
            },
        ],
    }
}
ASK = "Yes or no?\nAnswer:"
STONES = {
    "id": "M1",
    "question": {"stem": "Which is hard?", "choices": [{"text": "stone", "label": "A"}, {"text": "air", "label": "B"}]},
    "answerKey": "B",
}

# task -> (file name, its content, prompts and right answers; an answer is a class's name or the text that follows)
FILES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "sst2": (
        "dev.tsv",
        'sentence\tlabel\na "fine" film \t1\ndull\t0\n',
        [('a "fine" film  It was', "positive"), ("dull It was", "negative")],
    ),
    "rte": (
        "train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n1\tA.\tB.\tnot_entailment\n",
        [
            (f'It rains.\nDoes this mean that "It is wet." is true? {ASK}', "entailment"),
            (f'A.\nDoes this mean that "B." is true? {ASK}', "not_entailment"),
        ],
    ),
    "mrpc": (
        "msr_paraphrase_train.txt",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe "left".\tHe went.\n',
        [(f'He "left".\nHe went.\nDo both sentences say the same? {ASK}', "equivalent")],
    ),
    "qqp": (
        "train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n",
        [(f"Why?\nHow?\nDo both questions ask the same? {ASK}", "not_duplicate")],
    ),
    "qnli": (
        "dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tWho won?\tAnn won.\tentailment\n",
        [(f"Ann won.\nDoes this answer the question: Who won? {ASK}", "entailment")],
    ),
    "wnli": (
        "train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tIt fell.\tThe cup fell.\t1\n",
        [(f'It fell.\nDoes this mean that "The cup fell." is true? {ASK}', "entailment")],
    ),
    "boolq": (
        "val.jsonl",
        lines({"question": "is ice cold", "passage": "Ice is cold.", "idx": 0, "label": True}),
        [("Ice is cold.\nQuestion: is ice cold?\nAnswer:", "yes")],
    ),
    "wsc": (
        "train.jsonl",
        lines(
            {
                "text": "Ann told Bo that she won.",
                "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 4},
                "label": False,
            }
        ),
        [(f'Ann told Bo that she won.\nIn this text, does "she" stand for Ann? {ASK}', "no")],
    ),
    "wic": (
        "train.jsonl",
        lines({"word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "start1": 2, "label": True}),
        [(f'A bank.\nThe bank.\nHas "bank" the same meaning in both sentences? {ASK}', "yes")],
    ),
    "multirc": (
        "train.jsonl",
        lines({"idx": 0, "version": 1.1, "passage": PASSAGE}),
        [
            (f'Ann met Bo.\nQuestion: Who?\nIs "Bo" a right answer? {ASK}', "yes"),
            (f'Ann met Bo.\nQuestion: Who?\nIs "Cy" a right answer? {ASK}', "no"),
        ],
    ),
    "cb": (
        "train.jsonl",
        lines({"premise": "Perhaps.", "hypothesis": "It is so.", "label": "neutral", "idx": 0}),
        [('Perhaps.\nDoes this mean that "It is so." is true? Yes, no, or maybe?\nAnswer:', "neutral")],
    ),
    "copa": (
        "train.jsonl",
        lines(
            {"premise": "It fell.", "choice1": "I cried.", "choice2": "It broke.", "question": "effect", "label": 1},
            {"premise": "It fell.", "choice1": "The cat ran.", "choice2": "X.", "question": "cause", "label": 0},
        ),
        [("It fell, so", " it broke."), ("It fell because", " the cat ran.")],
    ),
    "winogrande": (
        "train_xs.jsonl",
        lines(
            {"qID": "1-1", "sentence": "The cup, not the _ , broke.", "option1": "mug", "option2": "jar", "answer": "2"}
        ),
        [("The cup, not the jar", " , broke.")],
    ),
    "arc-easy": ("ARC-Easy-Dev.jsonl", lines(STONES), [("Question: Which is hard?\nAnswer:", " air")]),
    "arc-challenge": ("ARC-Challenge-Train.jsonl", lines(STONES), [("Question: Which is hard?\nAnswer:", " air")]),
    "squad": (
        "train-v1.1.json",
        json.dumps(SQUAD),
        [("Rome is old.\nQuestion: What is old?\nAnswer:", " Rome")],
    ),
    "drop": (
        "drop_dataset_dev.json",
        json.dumps(DROP),
        [
            ("They won 3 to 1.\nQuestion: By how many?\nAnswer:", " 2"),
            ("They won 3 to 1.\nQuestion: When?\nAnswer:", " 4 May"),
        ],
    ),
}

# The same first examples with the hub's columns.
HUB: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": 'a "fine" film ', "label": 1, "idx": 0},
    "rte": {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0, "idx": 0},
    "mrpc": {"sentence1": 'He "left".', "sentence2": "He went.", "label": 1, "idx": 0},
    "qqp": {"question1": "Why?", "question2": "How?", "label": 0, "idx": 0},
    "qnli": {"question": "Who won?", "sentence": "Ann won.", "label": 0, "idx": 0},
    "wnli": {"sentence1": "It fell.", "sentence2": "The cup fell.", "label": 1, "idx": 0},
    "boolq": {"question": "is ice cold", "passage": "Ice is cold.", "label": 1, "idx": 0},
    "wsc": {"text": "Ann told Bo that she won.", "span1_text": "Ann", "span2_text": "she", "label": 0, "idx": 0},
    "wic": {"word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "start1": 2, "label": 1},
    "multirc": {"paragraph": "Ann met Bo.", "question": "Who?", "answer": "Bo", "label": 1},
    "cb": {"premise": "Perhaps.", "hypothesis": "It is so.", "label": 2, "idx": 0},
    "copa": {"premise": "It fell.", "choice1": "I cried.", "choice2": "It broke.", "question": "effect", "label": 1},
    "winogrande": {"sentence": "The cup, not the _ , broke.", "option1": "mug", "option2": "jar", "answer": "2"},
    "arc-easy": {
        "question": "Which is hard?",
        "choices": {"text": ["stone", "air"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "squad": {
        "context": "Rome is old.",
        "question": "What is old?",
        "answers": {"text": ["Rome"], "answer_start": [0]},
    },
    "drop": {"passage": "They won 3 to 1.", "question": "By how many?", "answers_spans": {"spans": ["2"], "types": []}},
}
HUB["arc-challenge"] = HUB["arc-easy"]


def shown(form: Form, record: dict[str, Any]) -> tuple[str, str]:
    return form.template.format_map(record), record["label"] if form.labels else form.target.format_map(record)


def test_every_task_is_here() -> None:
    assert FILES.keys() == HUB.keys() == TASKS.keys() and len(TASKS) == 17


@pytest.mark.parametrize("name", TASKS)
def test_files_become_prompts_and_answers(name: str, tmp_path: Path) -> None:
    file, content, expected = FILES[name]
    (tmp_path / file).write_text(content)
    form = Form.of_task(name)
    records = form.records(tmp_path / file)
    assert [shown(form, record) for _, record in records] == expected
    assert len({number for number, _ in records}) == 1 if name == "multirc" else len(records)
    part = "train" if "train" in file.lower() else "dev"
    assert part_file(tmp_path, part) == tmp_path / file  # type: ignore[arg-type]
    if form.labels:
        assert {record["label"] for _, record in records} <= {label for label, _ in form.labels}


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_s_rows_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library: what it is asked for, and what is made of its rows."""
    asked = []

    def load_dataset(kind: str, data_files: dict[str, str], split: str) -> list[dict[str, Any]]:
        asked.append((kind, data_files, split))
        return [HUB[name]]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    form = Form.of_task(name)
    ((_, record),) = form.records(None, "dev")
    assert shown(form, record) == FILES[name][2][0]
    repository, configuration = TASKS[name].hub
    url = f"hf://datasets/{repository}@refs%2Fconvert%2Fparquet/{configuration}/validation/*.parquet"
    assert asked == [("parquet", {"validation": url}, "validation")]


def test_candidates_and_golds() -> None:
    records = {name: TASKS[name].records(HUB[name], "here")[0] for name in ("copa", "arc-easy", "squad")}
    assert records["copa"]["choices"] == ["I cried.", "it broke."] and records["copa"]["label"] == "1"
    assert records["arc-easy"]["choices"] == ["stone", "air"] and records["arc-easy"]["choice"] == "air"
    (drop,) = TASKS["drop"].records(HUB["drop"], "here")
    assert records["squad"]["answers"] == ["Rome"] and drop["answers"] == ["2"]
    both = TASKS["drop"].records(DROP, "here")
    assert both[1]["answers"] == ["4 May", "May, 4"]


def test_what_the_hub_does_not_label_has_no_label() -> None:
    for name in ("sst2", "copa"):
        (record,) = TASKS[name].records(HUB[name] | {"label": -1}, "here")
        assert "label" not in record and "choice" not in record


@pytest.mark.parametrize("module", [None, types.SimpleNamespace(load_dataset=lambda *a, **k: 1 / 0)])
def test_no_hub_is_told(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", module)
    message = r"pip install 'prge\[tasks\]'" if module is None else "the hub does not give nyu-mll/glue"
    with pytest.raises(UserError, match=message):
        Form.of_task("sst2").records(None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("copa", lines({"premise": "x"}), "line 1: not an example of this task .*'choice1'; it has premise"),
        ("winogrande", lines({"sentence": "no gap", "option1": "", "option2": "", "answer": "1"}), "line 1"),
        ("arc-easy", lines({**STONES, "answerKey": "Z"}), "line 1: not an example"),
        ("squad", lines({"context": 1, "question": "x", "answers": "y"}), "line 1: not an example"),
        ("squad", lines({"context": "x", "question": "y", "answers": {"text": [5]}}), "line 1: not an example"),
        ("copa", lines({**HUB["copa"], "label": -2}), "line 1: not an example"),
        ("winogrande", lines({**HUB["winogrande"], "answer": "-3"}), "line 1: not an example"),
        ("sst2", lines({"sentence": "x", "label": "7"}), "line 1: not an example"),
    ],
)
def test_odd_rows_name_the_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        Form.of_task(name).records(tmp_path / "a.jsonl")


def test_a_folder_has_one_file_of_a_part(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train file"):
        part_file(tmp_path, "train")
    for name in ("train_xs.jsonl", "train_xl.jsonl", "README.md", "trains.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"several files for train: train_xl\.jsonl, train_xs\.jsonl"):
        part_file(tmp_path, "train")


def test_the_candidate_with_the_greatest_mean_log_probability_is_chosen(
    export: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    """Every candidate's losses and the choice against transformers' model, one unpadded row at a time."""
    form = Form.of_task("copa")
    folder = export(label_words=(), target=" {label}", max_targets=24)
    program = StepProgram(folder)
    m = replace(program.manifest, template=form.template, target=form.target, choices=form.choices, task="copa")
    program.manifest = m
    texts = ["call me back", "the boiler is out again", "thanks for dinner", "no hurry", "it is on fire", "ok"]
    rows: list[dict[str, Any]] = [
        {"premise": p, "choice1": a, "choice2": b, "question": "effect", "label": i % 2}
        for i, (p, a, b) in enumerate(zip(texts, texts[1:], texts[2:], strict=False))
    ]
    (tmp_path / "val.jsonl").write_text(lines(*rows))
    examples = Encoder(m, folder / "tokenizer.json").examples(tmp_path, part="dev")
    evaluation = evaluate(program, program.initial_state(), examples)
    hf = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def mean_loss(prompt: str, target: str) -> float:
        ends = tokenizer(target)["input_ids"]
        with torch.no_grad():
            logits = hf(torch.tensor([tokenizer(prompt)["input_ids"] + ends])).logits[0, -len(ends) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ends)))

    expected, chosen = [], []
    for row in rows:
        losses = [mean_loss(f"{row['premise']}, so", f" {row[choice]}") for choice in ("choice1", "choice2")]
        expected.append(losses[row["label"]])
        chosen.append(losses.index(min(losses)) == row["label"])
    torch.testing.assert_close(evaluation.losses, torch.tensor(expected), rtol=0, atol=1e-3)
    assert evaluation.metrics == {"accuracy": sum(chosen) / len(rows)}


def test_a_task_s_own_metrics_are_reported(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    encoder = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True)
    examples = encoder.examples(demo_data / "test.tsv", 20)
    program.manifest = replace(program.manifest, task="mrpc")
    found = evaluate(program, program.initial_state(), examples)
    assert found.scores is not None
    said, right = found.scores.argmax(1).bool(), torch.tensor([e.label for e in examples]).bool()
    both = int((said & right).sum())
    assert found.metrics["accuracy"] == found.accuracy == pytest.approx(float((said == right).float().mean()))
    assert found.metrics["f1"] == pytest.approx(2 * both / int(said.sum() + right.sum()))


@pytest.mark.skipif(not SST2.exists(), reason="the real SST-2 is not here")
def test_real_data() -> None:
    form = Form.of_task("sst2")
    records = form.records(SST2, "dev")
    assert len(records) > 800 and {record["label"] for _, record in records} == {"negative", "positive"}
    assert len(form.records(SST2)) > 5000
