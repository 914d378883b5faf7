"""Tables of a classifier's confusion matrix: functions from counts to rows."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.markup import escape
from torch import Tensor

from blitz.runs.report import Report, Rows


class ClassResult(NamedTuple):
    name: str
    images: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """None if there is no image of this class."""
        return self.correct / self.images if self.images else None


def class_results(classes: Sequence[str], confusion: Tensor) -> list[ClassResult]:
    """Return the result of each class.

    Args:
        confusion: int ``(classes, classes)``, with a row for each true class and a column for each predicted one.
    """
    counts = zip(classes, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True)
    return [ClassResult(*values) for values in counts]


def accuracy(results: Sequence[ClassResult]) -> float:
    """Return the micro accuracy: of all images, whatever their class."""
    return sum(result.correct for result in results) / sum(result.images for result in results)


def report(stage: str, classes: Sequence[str], confusion: Tensor) -> Report:
    """Return the tables of images, correct images and accuracy by class, and the confusion matrix."""
    results = class_results(classes, confusion)
    correct, images = int(confusion.trace()), int(confusion.sum())
    return Report(
        metrics={f"{stage}/acc/{result.name}": None for result in results if result.accuracy is None},
        tables={"per_class": per_class_table(results), "confusion": confusion_table(classes, confusion)},
        display=display_table(results),
        summary={f"{stage} accuracy": f"{as_percent(accuracy(results))}  ({correct:,} of {images:,})"},
    )


def per_class_table(results: Sequence[ClassResult]) -> Rows:
    header = ("class", "count", "correct", "accuracy")
    return [header, *((*result, "n/a" if result.accuracy is None else result.accuracy) for result in results)]


def confusion_table(classes: Sequence[str], confusion: Tensor) -> Rows:
    return [("true", *classes), *((name, *row) for name, row in zip(classes, confusion.tolist(), strict=True))]


def display_table(results: Sequence[ClassResult]) -> Rows:
    """Return the rows that the terminal shows, with the best and the worst class marked; text in rich's markup."""
    header = ("class", "images", "correct", "accuracy", "")
    marks = best_and_worst([result.accuracy for result in results])
    return [header] + [
        (escape(printable(result.name)), str(result.images), str(result.correct), as_percent(result.accuracy), mark)
        for result, mark in zip(results, marks, strict=True)
    ]


def printable(name: str) -> str:
    """Return a name in which characters that are not printable are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def best_and_worst(values: Sequence[float | None]) -> list[str]:
    """Return a mark for each value, in rich's markup, or "" if it is None or neither the largest nor the smallest.

    There are no marks if all values are the same.
    """
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return [""] * len(values)
    marks: dict[float | None, str] = {max(known): "[green]best[/]", min(known): "[red]worst[/]"}
    return [marks.get(value, "") for value in values]


def as_percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.2f} %"
