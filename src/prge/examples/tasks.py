"""The tasks that P-RGE and MeZO are evaluated on, by name.

A task declares what the model reads, which words or choices it answers with, how it is scored, and where its data
come from. `Task.records` makes the hub's rows and those of the task's own files the same. Labels stand in the order in
which the hub numbers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from prge.errors import UserError
from prge.examples import task_rows
from prge.examples.read import Record, as_text
from prge.examples.task_rows import Row


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        about: what it asks, in a few words.
        template: the prompt, with column names in braces.
        hub: (data set, configuration) on the Hugging Face hub.
        labels: (name, label word) of every class; empty where the answer is text.
        target: template of the text that follows the prompt. ``{choice}`` stands for one of the column ``choices``.
        metrics: names in `prge.examples.metrics.METRICS`, or of `answer_scores`.
        columns: the columns of its TSV, if that has no header.
        renamed: (name in its files, name in the template) of columns.
        unfold: gives the rows in a row of a file.
        max_tokens: the most tokens of a row that its examples mostly need.
        max_targets: the most target tokens of a row that they mostly need.
    """

    about: str
    template: str
    hub: tuple[str, str]
    labels: tuple[tuple[str, str], ...] = ()
    target: str = ""
    metrics: tuple[str, ...] = ("accuracy",)
    columns: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    unfold: Callable[[Row], Iterable[Row]] = lambda row: (row,)
    max_tokens: int = 256
    max_targets: int = 32

    @property
    def kind(self) -> Literal["classification", "multiple choice", "question answering"]:
        if self.labels:
            return "classification"
        return "multiple choice" if self.metrics == ("accuracy",) else "question answering"

    def described(self) -> dict[str, Any]:
        """What `prge tasks --json` says of the task."""
        shown = ("about", "kind", "template", "labels", "target", "metrics", "hub", "max_tokens", "max_targets")
        return {name: getattr(self, name) for name in shown}

    def records(self, row: Row, where: str) -> list[Record]:
        """The records in a row of the hub or of a file.

        Their ``label`` is the class's name, or the index of the right choice, whose text is ``choice``.

        Raises:
            UserError: the row is not of the task's kind.
        """
        names, renamed = [name for name, _ in self.labels], dict(self.renamed)
        records = []
        try:
            for found in self.unfold({renamed.get(key, key): value for key, value in row.items()}):
                record = as_text(found)
                if record.get("label") == "-1":  # the hub's test sets
                    del record["label"]
                if names and "label" in record:
                    label = str(record["label"])
                    label = {"false": "0", "true": "1"}.get(label.lower(), label)
                    record["label"] = names[int(label)] if label.isdecimal() else label
                if "choices" in record and "label" in record:
                    right = int(record["label"])
                    if right < 0:
                        raise ValueError(f"label {right}")
                    record["choice"] = record["choices"][right]
                records.append(record)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise UserError(
                f"{where}: not an example of this task ({self.about}): {type(e).__name__} {e}; it has {', '.join(row)}"
            ) from e
        return records


_NO_YES = (" No", " Yes")
_PAIR = ("sentence1", "sentence2", "label")
_CHOICE = " {choice}"


def _named(*names: str, words: tuple[str, ...] = _NO_YES) -> tuple[tuple[str, str], ...]:
    return tuple(zip(names, words, strict=True))


TASKS: dict[str, Task] = {
    "sst2": Task(
        "is a sentence of a film review positive?",
        "{sentence} It was",
        ("nyu-mll/glue", "sst2"),
        labels=_named("negative", "positive", words=(" terrible", " great")),
        columns=("sentence", "label"),
        renamed=(("text", "sentence"),),
        max_tokens=80,
    ),
    "rte": Task(
        "does a text entail a hypothesis?",
        '{sentence1}\nDoes this mean that "{sentence2}" is true? Yes or no?\nAnswer:',
        ("nyu-mll/glue", "rte"),
        labels=_named("entailment", "not_entailment", words=(" Yes", " No")),
        columns=_PAIR,
        renamed=(("premise", "sentence1"), ("hypothesis", "sentence2")),
        max_tokens=320,
    ),
    "mrpc": Task(
        "do two sentences of the news say the same?",
        "{sentence1}\n{sentence2}\nDo both sentences say the same? Yes or no?\nAnswer:",
        ("nyu-mll/glue", "mrpc"),
        labels=_named("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        columns=("label", "id1", "id2", "sentence1", "sentence2"),
        renamed=(("Quality", "label"), ("#1 String", "sentence1"), ("#2 String", "sentence2")),
        max_tokens=160,
    ),
    "qqp": Task(
        "do two questions ask the same?",
        "{question1}\n{question2}\nDo both questions ask the same? Yes or no?\nAnswer:",
        ("nyu-mll/glue", "qqp"),
        labels=_named("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        columns=("id", "qid1", "qid2", "question1", "question2", "label"),
        renamed=(("is_duplicate", "label"),),
        max_tokens=160,
    ),
    "qnli": Task(
        "does a sentence answer a question?",
        "{sentence}\nDoes this answer the question: {question} Yes or no?\nAnswer:",
        ("nyu-mll/glue", "qnli"),
        labels=_named("entailment", "not_entailment", words=(" Yes", " No")),
        columns=("question", "sentence", "label"),
    ),
    "wnli": Task(
        "does a sentence entail one with its pronoun resolved?",
        '{sentence1}\nDoes this mean that "{sentence2}" is true? Yes or no?\nAnswer:',
        ("nyu-mll/glue", "wnli"),
        labels=_named("not_entailment", "entailment"),
        columns=_PAIR,
        max_tokens=160,
    ),
    "boolq": Task(
        "yes or no to a question on a passage",
        "{passage}\nQuestion: {question}?\nAnswer:",
        ("aps/super_glue", "boolq"),
        labels=_named("no", "yes"),
        renamed=(("answer", "label"),),
        max_tokens=512,
    ),
    "wsc": Task(
        "does a pronoun stand for a name?",
        '{text}\nIn this text, does "{pronoun}" stand for {name}? Yes or no?\nAnswer:',
        ("aps/super_glue", "wsc.fixed"),
        labels=_named("no", "yes"),
        unfold=task_rows.wsc,
        max_tokens=160,
    ),
    "wic": Task(
        "has a word the same sense in two sentences?",
        '{sentence1}\n{sentence2}\nHas "{word}" the same meaning in both sentences? Yes or no?\nAnswer:',
        ("aps/super_glue", "wic"),
        labels=_named("no", "yes"),
        max_tokens=128,
    ),
    "multirc": Task(
        "is an answer to a question on a passage right?",
        '{paragraph}\nQuestion: {question}\nIs "{answer}" a right answer? Yes or no?\nAnswer:',
        ("aps/super_glue", "multirc"),
        labels=_named("no", "yes"),
        metrics=("accuracy", "f1a"),
        unfold=task_rows.multirc,
        max_tokens=512,
    ),
    "cb": Task(
        "does a discourse entail a hypothesis, contradict it, or neither?",
        '{premise}\nDoes this mean that "{hypothesis}" is true? Yes, no, or maybe?\nAnswer:',
        ("aps/super_glue", "cb"),
        labels=_named("entailment", "contradiction", "neutral", words=(" Yes", " No", " Maybe")),
        metrics=("accuracy", "macro-f1"),
    ),
    "copa": Task(
        "which of two is the cause or effect?",
        "{premise}",
        ("aps/super_glue", "copa"),
        target=_CHOICE,
        unfold=task_rows.copa,
        max_tokens=64,
    ),
    "winogrande": Task(
        "which of two names fills the gap?",
        "{before}{choice}",
        ("allenai/winogrande", "winogrande_xl"),
        target="{after}",
        unfold=task_rows.winogrande,
        max_tokens=80,
    ),
    "arc-easy": Task(
        "school science questions, the easy ones",
        "Question: {question}\nAnswer:",
        ("allenai/ai2_arc", "ARC-Easy"),
        target=_CHOICE,
        unfold=task_rows.arc,
        max_targets=48,
    ),
    "arc-challenge": Task(
        "school science questions, the hard ones",
        "Question: {question}\nAnswer:",
        ("allenai/ai2_arc", "ARC-Challenge"),
        target=_CHOICE,
        unfold=task_rows.arc,
        max_targets=48,
    ),
    "squad": Task(
        "a span of the passage that answers a question",
        "{passage}\nQuestion: {question}\nAnswer:",
        ("rajpurkar/squad", "plain_text"),
        target=" {answer}",
        metrics=("exact_match", "f1"),
        unfold=task_rows.squad,
        max_tokens=512,
    ),
    "drop": Task(
        "a number, date or span by reasoning over a passage",
        "{passage}\nQuestion: {question}\nAnswer:",
        ("ucinlp/drop", "default"),
        target=" {answer}",
        metrics=("exact_match", "f1"),
        unfold=task_rows.drop,
        max_tokens=640,
        max_targets=16,
    ),
}


def find_task(name: str) -> Task:
    """A task by its name; a UserError that lists the names if there is none."""
    if name not in TASKS:
        raise UserError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]
