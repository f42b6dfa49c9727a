"""The rows of the tasks' data: the hub's and those of the tasks' own files, made alike.

Each function takes a row of either kind. It yields rows with the columns that the task's template names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prge.errors import UserError
from prge.examples.read import Part

Row = dict[str, Any]

_DATE = ("day", "month", "year")


def copa(row: Row) -> Iterable[Row]:
    premise, choices = row["premise"].rstrip(" ."), [row["choice1"], row["choice2"]]
    joined = " because" if row["question"] == "cause" else ", so"
    # A choice goes on with the sentence, so it begins with a small letter; "I" stays.
    begun = [c if c.startswith(("I ", "I'")) else c[:1].lower() + c[1:] for c in choices]
    # A class's name counts from 1, its number from 0.
    named = {"choice1": "0", "choice2": "1"}.get(str(row.get("label")))
    label = {"label": named} if named else {}
    yield {**row, **label, "premise": premise + joined, "choices": begun}


def winogrande(row: Row) -> Iterable[Row]:
    before, after = row["sentence"].split("_")
    label = {"label": str(int(row["answer"]) - 1)} if row.get("answer") else {}
    yield {"before": before, "after": after, "choices": [row["option1"], row["option2"]], **label}


def arc(row: Row) -> Iterable[Row]:
    nested = isinstance(row.get("question"), dict)
    stem = row["question"]["stem"] if nested else row.get("question_stem") or row["question"]
    choices = row["question"]["choices"] if nested else row["choices"]
    if isinstance(choices, dict):  # the hub's columns
        choices = [{"text": t, "label": x} for t, x in zip(choices["text"], choices["label"], strict=True)]
    label = {}
    if row.get("answerKey"):
        label = {"label": str([c["label"] for c in choices].index(row["answerKey"]))}
    yield {"question": stem, "choices": [c["text"] for c in choices], **label}


def wsc(row: Row) -> Iterable[Row]:
    spans = row.get("target", row)
    yield {**row, "name": spans["span1_text"], "pronoun": spans["span2_text"]}


def multirc(row: Row) -> Iterable[Row]:
    if "passage" not in row:
        yield row
        return
    text = " ".join(re.sub(r"<[^>]*>|Sent \d+:", " ", row["passage"]["text"]).split())
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            label = {"label": answer["label"]} if "label" in answer else {}
            yield {"paragraph": text, "question": question["question"], "answer": answer["text"], **label}


def _answered(passage: str, question: str, answers: Iterable[str]) -> Iterable[Row]:
    golds = [answer for answer in dict.fromkeys(answers) if answer]
    if not all(isinstance(answer, str) for answer in golds):
        raise TypeError("an answer that is no text")
    if golds:  # a question without an answer is left out
        yield {"passage": passage, "question": question, "answer": golds[0], "answers": golds}


def squad(row: Row) -> Iterable[Row]:
    if "paragraphs" in row:  # an article of the file
        for paragraph in row["paragraphs"]:
            for asked in paragraph["qas"]:
                yield from squad({"context": paragraph["context"], **asked})
        return
    answers = row["answers"]
    if isinstance(answers, str):
        raise TypeError("answers that are no list")
    texts = answers["text"] if isinstance(answers, dict) else [a if isinstance(a, str) else a["text"] for a in answers]
    yield from _answered(row["context"], row["question"], texts)


def drop(row: Row) -> Iterable[Row]:
    if "answers_spans" in row:
        yield from _answered(row["passage"], row["question"], [", ".join(row["answers_spans"]["spans"])])
        return
    for passage in row.values():  # the whole file: passages by name
        for asked in passage["qa_pairs"]:
            golds = [asked["answer"], *asked.get("validated_answers", [])]
            yield from _answered(passage["passage"], asked["question"], map(_drop_text, golds))


def _drop_text(answer: Row) -> str:
    """An answer of DROP as text: it is a number, a date, or spans of the passage."""
    date = answer.get("date") or {}
    return answer.get("number") or ", ".join(answer["spans"]) or " ".join(filter(None, map(date.get, _DATE)))


def hub_rows(repository: str, configuration: str, part: Part) -> Iterator[Row]:
    """The rows of a data set of the hub, by the ``datasets`` library. No code of the data set is run.

    Raises:
        UserError: the library is missing, or the hub does not answer.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as e:
        raise UserError(
            f"{repository} comes from the hub with the datasets library: pip install 'prge[tasks]'; "
            "or give a local file or folder with --data"
        ) from e
    split = "train" if part == "train" else "validation"
    # The hub keeps every data set as Parquet here.
    files = f"hf://datasets/{repository}@refs%2Fconvert%2Fparquet/{configuration}/{split}/*.parquet"
    try:
        yield from load_dataset("parquet", data_files={split: files}, split=split)
    except Exception as e:  # whatever its network stack raises
        raise UserError(
            f"the hub does not give {repository} ({configuration}): {str(e).strip().splitlines()[0]}; "
            "give a local file or folder with --data"
        ) from e
