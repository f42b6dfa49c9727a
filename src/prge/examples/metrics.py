"""Metrics of predictions as GLUE, SuperGLUE and SQuAD report them. All are from 0 to 1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

# An index of a class for every example.
Classes = Sequence[int]


def accuracy(predicted: Classes, right: Classes) -> float:
    """The share of predictions that are right."""
    return sum(p == r for p, r in zip(predicted, right, strict=True)) / len(right)


def f1_of(predicted: Classes, right: Classes, positive: int) -> float:
    """The harmonic mean of one class's precision and recall; 0 if no example of the class was found."""
    found = sum(p == r == positive for p, r in zip(predicted, right, strict=True))
    total = sum(p == positive for p in predicted) + sum(r == positive for r in right)
    return 2 * found / total if total else 0.0


def f1(predicted: Classes, right: Classes) -> float:
    """F1 of class 1, where there are two classes."""
    return f1_of(predicted, right, 1)


def macro_f1(predicted: Classes, right: Classes) -> float:
    """The mean F1 of the classes that occur."""
    classes = sorted({*predicted, *right})
    return sum(f1_of(predicted, right, c) for c in classes) / len(classes)


# Functions of (predicted, right). MultiRC's F1a is F1 over all answers of all questions.
METRICS: dict[str, Callable[[Classes, Classes], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1a": f1,
    "macro-f1": macro_f1,
}


def normalized(answer: str) -> str:
    """SQuAD's normal form: lower case, without punctuation, articles and surplus spaces."""
    text = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, gold: str) -> float:
    """1 if both are equal in their `normalized` form, else 0."""
    return float(normalized(prediction) == normalized(gold))


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the words that a prediction shares with the gold answer; 1 if neither has any words."""
    ours, theirs = normalized(prediction).split(), normalized(gold).split()
    if not (ours and theirs):
        return float(ours == theirs)
    return 2 * sum((Counter(ours) & Counter(theirs)).values()) / (len(ours) + len(theirs))


def answer_scores(predictions: Sequence[str], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean ``exact_match`` and ``f1`` of generated answers, each scored against the best of its gold answers."""

    def mean(metric: Callable[[str, str], float]) -> float:
        best = [max(metric(p, gold) for gold in each) for p, each in zip(predictions, golds, strict=True)]
        return sum(best) / len(best)

    return {"exact_match": mean(exact_match), "f1": mean(token_f1)}
