"""The report of a task at the end of a stage, in addition to its logged metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Report:
    """Tables, undefined metrics and terminal lines of one stage.

    Args:
        metrics: metrics that cannot be logged because they are undefined, such as the accuracy of an absent class.
        tables: CSV files by name, each with its header as the first row.
        display: the table that the terminal shows, with its header as the first row; rich markup is interpreted.
        summary: lines for the terminal, by their label.
        files: contents of other files, such as pictures, by name; they are written to the run directory.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    tables: Mapping[str, Rows] = field(default_factory=dict)
    display: Rows = ()
    summary: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
