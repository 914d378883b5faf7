"""Tables of a confusion matrix that is counted by hand: class c has no image."""

import pytest
import torch

from blitz.task import per_class

CLASSES = ["a", "[b]", "c"]
CONFUSION = torch.tensor([[3, 1, 0], [0, 2, 2], [0, 0, 0]])


def test_results_by_class():
    results = per_class.class_results(CLASSES, CONFUSION)
    assert results == [("a", 4, 3), ("[b]", 4, 2), ("c", 0, 0)]
    assert [result.accuracy for result in results] == [0.75, 0.5, None]
    assert per_class.accuracy(results) == 5 / 8


def test_report():
    report = per_class.report("test", CLASSES, CONFUSION)
    assert report.metrics == {"test/acc/c": None}, "the other ones are logged"
    assert report.tables["per_class"] == [
        ("class", "count", "correct", "accuracy"), ("a", 4, 3, 0.75), ("[b]", 4, 2, 0.5), ("c", 0, 0, "n/a"),
    ]  # fmt: skip
    assert report.tables["confusion"] == [
        ("true", "a", "[b]", "c"), ("a", 3, 1, 0), ("[b]", 0, 2, 2), ("c", 0, 0, 0),
    ]  # fmt: skip
    assert report.summary == {"test accuracy": "62.50 %  (5 of 8)"}


def test_terminal_shows_class_names_as_they_are():
    rows = per_class.report("test", CLASSES, CONFUSION).display
    assert rows[1:] == [
        ("a", "4", "3", "75.00 %", "[green]best[/]"),
        (r"\[b]", "4", "2", "50.00 %", "[red]worst[/]"),
        ("c", "0", "0", "n/a", ""),
    ]


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.1, 0.9, 0.5, 0.9], ["worst", "best", "", "best"]),
        ([0.5, 0.5], ["", ""]),
        ([0.5, None], ["", ""]),
        ([None, None], ["", ""]),
        ([None, 0.0, 1.0], ["", "worst", "best"]),
    ],
)
def test_best_and_worst(values, marks):
    found = per_class.best_and_worst(values)
    assert [mark.partition("]")[2].removesuffix("[/]") for mark in found] == marks
