"""Show a comparison of runs: on the terminal, and as CSV, JSON or Markdown."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column
from rich.table import Table as RichTable

from blitz.config.paths import shorten
from blitz.runs.collect import Record
from blitz.runs.compare import Row, Table, best_of, run_table, section

COLORS = {"done": "green", "running": "cyan", "pruned": "yellow", "interrupted": "yellow", "failed": "red"}
NAME = 16  # characters of a run's name on a terminal: the end, which holds the hash or the time
RECIPE = "recipe"  # the column that is wrapped if the terminal is too narrow
GAP = 2  # characters between two columns
TITLES = {
    "samples_per_second": "samples/s", "seconds": "time", "worst_class": "worst class",
    "low": "95 % from", "high": "to",
}  # fmt: skip
FIXED = ("run", "state", "n", "metric", RECIPE, "low", "high")  # columns that are always shown
LAST = ("seconds", "samples_per_second", "worst_class")  # columns that are added last if there is space


def as_csv(table: Table) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, table.columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def as_json(table: Table) -> str:
    rows = [{column: row.get(column) for column in table.columns} for row in table.rows]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def as_markdown(table: Table) -> str:
    """Return a table in the syntax of GitHub, with the numbers as the terminal shows them."""
    columns = _shown(table)
    lines = [
        [_title(column) for column in columns],
        ["---:" if _is_numeric(table, column) else "---" for column in columns],
        *([cell(row, column) for column in columns] for row in table.rows),
    ]
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def show_runs(records: Sequence[Record], console: Console) -> None:
    """Print a table for each optimized metric, a line for each run that ended without results, and the best run."""

    def name(record: Record) -> str:
        return record.path.name if console.is_terminal else shorten(record.path)

    show_tables(records, lambda members: run_table(members, name), console)
    for record in records:
        if record.status.reason:
            _line(console, record.status.state, f"{shorten(record.path)}: {record.status.reason}")
    if winner := best_of(records):
        _line(console, "best", shorten(winner.checkpoint or winner.path))


def show_tables(records: Sequence[Record], make_table: Callable[[Sequence[Record]], Table], console: Console) -> None:
    """Print a table for each optimized metric and direction. Runs without a config have none."""
    sections: dict[tuple[str | None, bool], list[Record]] = {}
    for record in records:
        if record.config:
            sections.setdefault(section(record), []).append(record)
    left_out: list[str] = []
    for (metric, minimized), members in sections.items():
        if len(sections) > 1:
            best = f"{metric}, the {'smallest' if minimized else 'largest'} first" if metric else "no optimized metric"
            console.print(f"{best}:", markup=False, highlight=False)
        left_out += show(make_table(members), console)
    if left_out:
        _line(console, "left out", f"{', '.join(dict.fromkeys(left_out))}; --csv prints all columns")


def _line(console: Console, label: str, text: str) -> None:
    """Print a label and a text. Lines are never wrapped or cut, so that paths can be copied."""
    console.print(f"{label:<15}{escape(text)}", soft_wrap=True, highlight=False)


def show(table: Table, console: Console) -> list[str]:
    """Print a table. Return the titles of the columns that the terminal is too narrow for.

    Without a terminal, all columns and names are printed in full, on long lines.
    """
    columns = [column for column in _shown(table) if column != "reason"]
    kept = _fitting(table, columns, console.width) if console.is_terminal else columns
    titles = [
        Column(
            escape(_broken(column)), justify="right" if _is_numeric(table, column) else "left", no_wrap=column != RECIPE
        )
        for column in kept
    ]
    shown = RichTable(*titles, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for row in table.rows:
        shown.add_row(*(_styled(row, column, console.is_terminal) for column in kept))
    if not console.is_terminal:
        console = Console(file=console.file, width=_width(table, kept, cut=False))
    console.print(shown, highlight=False)
    if table.note:
        console.print(table.note, markup=False, highlight=False, soft_wrap=True)
    return [_title(column) for column in columns if column not in kept]


def cell(row: Row, column: str) -> str:
    """Return a value as text."""
    value = row.get(column)
    if value is None:
        return ""
    if column == "worst_class":
        return f"{value} {metric_text(row['metric'], row['worst_class_value'])}"
    if column == "seconds":
        return duration(value)
    if column == "samples_per_second":
        return f"{value:,.0f}"
    if _is(column, "mean"):
        return metric_text(
            row.get("metric", column.removesuffix(" mean")), value, row.get(column.removesuffix("mean") + "std")
        )
    if column in ("low", "high"):
        return metric_text(row["metric"], value)
    if isinstance(value, float):
        return metric_text(column, value) if "/" in column or column == row.get("metric") else f"{value:.6g}"
    return str(value)


def duration(seconds: float) -> str:
    """Return a time such as ``9.5 s``, ``12:03`` or ``1:00:00``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is(column: str, statistic: str) -> bool:
    """Return whether a column holds a statistic, such as ``mean`` or ``val/acc mean``. ``data.mean`` is a key."""
    return column == statistic or column.endswith(f" {statistic}")


def metric_text(metric: str, value: float, std: float | None = None) -> str:
    """Return the value of a metric, and its standard deviation if there is one. Accuracies are in percent."""
    scale, digits, unit = (100, 2, " %") if metric.endswith("/acc") else (1, 4, "")
    deviation = "" if std is None else f" ± {std * scale:.{digits}f}"
    return f"{value * scale:.{digits}f}{deviation}{unit}"


def _shown(table: Table) -> list[str]:
    """Return the columns to show. Values of the worst class and deviations share the cell of another column."""
    return [column for column in table.columns if column != "worst_class_value" and not _is(column, "std")]


def _title(column: str) -> str:
    return TITLES.get(column, column.removesuffix(" mean"))


def _broken(column: str) -> str:
    """Return the title in lines, broken before the last part of a key or metric."""
    title = _title(column)
    for sign in (".", "/", " "):
        if sign in title and "=" not in title:
            parent, _, name = title.rpartition(sign)
            return f"{parent}{sign.strip()}\n{name}"
    return title


def _fitting(table: Table, columns: Sequence[str], width: int) -> list[str]:
    """Return the columns that fit into ``width`` characters."""
    keys = [column for column in columns if column not in (*FIXED, *table.metrics, *LAST)]
    kept = [column for column in columns if column in (*FIXED, *table.metrics[:1])]
    for column in (*table.metrics[1:], *keys, *LAST):
        if column in columns and _width(table, [*kept, column], cut=True) <= width:
            kept.append(column)
    return [column for column in columns if column in kept]


def _width(table: Table, columns: Sequence[str], cut: bool) -> int:
    def width(column: str) -> int:
        return max(
            len(text) for text in (*_broken(column).split("\n"), *(_cut(row, column, cut) for row in table.rows))
        )

    return sum(width(column) + GAP for column in columns) + GAP


def _styled(row: Row, column: str, cut: bool) -> str:
    text = escape(_cut(row, column, cut))
    return f"[{COLORS[row[column]]}]{text}[/]" if column == "state" else text


def _cut(row: Row, column: str, cut: bool) -> str:
    text = cell(row, column)
    return f"…{text[1 - NAME :]}" if cut and column == "run" and len(text) > NAME else text


def _is_numeric(table: Table, column: str) -> bool:
    values = [row[column] for row in table.rows if row.get(column) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
