"""Metrics against scikit-learn's definitions worked out by hand, and SQuAD's own examples of what is equal."""

from __future__ import annotations

import pytest

from prge.examples.metrics import METRICS, answer_scores, exact_match, normalized, token_f1


@pytest.mark.parametrize(
    ("name", "predicted", "right", "expected"),
    [
        ("accuracy", [0, 1, 1, 0], [0, 1, 0, 0], 3 / 4),
        ("f1", [0, 1, 1, 0], [0, 1, 0, 0], 2 / 3),  # precision 1/2, recall 1
        ("f1", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], 2 / 3),  # both 2/3
        ("f1", [0, 0], [1, 0], 0.0),
        ("f1a", [1, 0, 1, 1], [1, 1, 0, 1], 2 / 3),
        ("macro-f1", [0, 1, 2, 0], [0, 1, 1, 2], (2 / 3 + 2 / 3 + 0) / 3),
        ("macro-f1", [0, 0], [0, 0], 1.0),
    ],
)
def test_metrics_of_classes(name: str, predicted: list[int], right: list[int], expected: float) -> None:
    assert METRICS[name](predicted, right) == pytest.approx(expected)


def test_answers_are_compared_as_squad_does() -> None:
    assert normalized("The  Cat's, (a) hat!") == "cats hat"
    assert exact_match("an Eiffel Tower.", "the eiffel tower") == 1.0
    assert exact_match("Eiffel", "the eiffel tower") == 0.0
    assert token_f1("in the Eiffel tower", "Eiffel Tower, Paris") == pytest.approx(2 * 2 / (3 + 3))
    assert token_f1("red red", "red blue blue") == pytest.approx(2 / 5)
    assert (token_f1("", "the"), token_f1("", "x"), token_f1("a", "x")) == (1.0, 0.0, 0.0)


def test_the_best_gold_answer_counts() -> None:
    predictions, golds = ["4", "the north sea"], [["four", "4"], ["Sea", "North Sea coast"]]
    scores = answer_scores(predictions, golds)
    assert scores == {"exact_match": pytest.approx(0.5), "f1": pytest.approx((1 + 4 / 5) / 2)}
