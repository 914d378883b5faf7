"""Show a running sweep: a line for each job that has ended, and below them a table of the running ones."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from blitz import terminal
from blitz.config.paths import shorten
from blitz.runs import table
from blitz.runs.compare import run_table
from blitz.runs.status import read_progress
from blitz.runs.table import duration, metric_text
from blitz.sweep.job import Job, Outcome
from blitz.sweep.results import Results

REFRESH_SECONDS = 0.5
COLORS = {"done": "green", "failed": "red", "interrupted": "yellow", "pruned": "yellow", "running": "cyan"}


@dataclass
class _Row:
    job: Job
    queued: bool
    since: float = field(default_factory=time.monotonic)


class Display:
    """Print each job that ends. In a terminal, also draw the running ones; otherwise, print when a job starts.

    Args:
        total: number of jobs.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(emoji=False)
        self.total = total
        self.counts: dict[str, int] = {}
        self.num_run = 0  # jobs that were not done before
        self._running: dict[str, _Row] = {}
        self._seconds: list[float] = []  # of the jobs that ran to their end
        self._slots = 0  # most jobs that ran at the same time
        self._drawn = 0.0
        self._live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stderr=False)

    def __enter__(self) -> None:
        if self.console.is_terminal:
            self._live.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def start(self, job: Job) -> None:
        self._show_state(job)
        self._slots = max(self._slots, len(self._running))
        self.refresh(force=True)

    def end(self, job: Job, outcome: Outcome, was_run: bool) -> None:
        self._running.pop(job.path.name, None)
        self.counts[outcome.state] = self.counts.get(outcome.state, 0) + 1
        if was_run:
            self.num_run += 1
            if outcome.state == "done":
                self._seconds.append(outcome.seconds)
            self._print(_line(job, outcome))
            self.refresh(force=True)

    def refresh(self, force: bool = False) -> None:
        """Show which jobs a cluster has started or queued again since the last call.

        In a terminal, draw the table of running jobs, if it was not drawn in the last ``REFRESH_SECONDS``.
        """
        for row in list(self._running.values()):
            if row.queued != row.job.queued:
                self._show_state(row.job)
        if self.console.is_terminal and (force or time.monotonic() - self._drawn > REFRESH_SECONDS):
            self._drawn = time.monotonic()
            self._live.update(Group(self._table(), self._summary()), refresh=True)

    def _show_state(self, job: Job) -> None:
        """Measure the time from now on and, unless the table shows the state, print it."""
        self._running[job.path.name] = _Row(job, job.queued)
        if not self.console.is_terminal:
            self._print(f"{'queued' if job.queued else 'started':<12}{escape(job.label)}")

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        numbers = [Column(title, justify="right", no_wrap=True) for title in ("epoch", "best", "time", "left")]
        shown = Table(Column("running", overflow="ellipsis", no_wrap=True), *numbers, box=box.SIMPLE_HEAD)
        rows = sorted(self._running.values(), key=lambda row: row.queued)
        for row in rows[: max(1, self.console.height - 6)]:
            progress = None if row.queued else read_progress(row.job.path)
            epoch, best = ("queued", "") if row.queued else _progress_cells(progress)
            seconds = time.monotonic() - row.since
            shown.add_row(escape(row.job.label), epoch, best, duration(seconds), _left(progress))
        return shown

    def _summary(self) -> str:
        ended = sum(self.counts.values())
        waiting = self.total - ended - len(self._running)
        started = [row for row in self._running.values() if not row.queued]
        queued = len(self._running) - len(started)
        counts = {**self.counts, "running": len(started), "queued": queued, "waiting": waiting}
        text = f"{self.total} jobs: {', '.join(f'{n} {state}' for state, n in counts.items() if n)}"
        if not self._seconds:
            return text
        each = sum(self._seconds) / len(self._seconds)
        spent = sum(min(each, time.monotonic() - row.since) for row in started)
        left = (each * (waiting + len(self._running)) - spent) / max(1, self._slots)
        return f"{text}; about {duration(left)} left"


def show_results(
    sweep_dir: Path, results: Results, ends: Sequence[tuple[Job, Outcome]], total: int, num_run: int
) -> None:
    """Print the metrics of all jobs, the best one, a line for each unfinished job, and the number of finished jobs.

    Args:
        ends: the jobs that have ended.
        total: number of all jobs.
        num_run: number of jobs that were not done before.
    """
    reached = {job.path for job, _ in ends}
    done = sum(outcome.state in ("done", "pruned") for _, outcome in ends) + sum(
        record.status.state in ("done", "pruned") for record in results.records if record.path not in reached
    )
    if done == total and not num_run:
        print(f"all {total} jobs are done already")
    table.show_tables(results.records, lambda runs: run_table(runs, name=lambda run: run.path.name), terminal.console)
    lines = {}
    if results.best and results.experiment:
        lines = {"best": shorten(results.best.checkpoint or results.best.path), "recipe": shorten(results.experiment)}
    terminal.show_lines({**lines, "dashboard": terminal.dashboard_command(sweep_dir), "sweep": shorten(sweep_dir)})
    for job, outcome in sorted(ends, key=lambda end: end[0].number):
        if outcome.state in ("failed", "interrupted"):
            line = f"{outcome.state}: {job.label}: {outcome.reason}; see {shorten(job.output)}"
            print(line, file=sys.stderr, flush=True)
    if done + sum(outcome.state == "failed" for _, outcome in ends) < total:
        print(
            f"{done} of {total} jobs are done; run the same command again to finish the rest",
            file=sys.stderr,
            flush=True,
        )


def _line(job: Job, outcome: Outcome) -> str:
    state = f"[{COLORS[outcome.state]}]{outcome.state:<12}[/]"
    value = ""
    if isinstance(outcome.value, float) and job.metric:
        value = f"  {job.metric} {metric_text(job.metric, outcome.value)}"
    reason = f": {escape(outcome.reason)}; see {escape(shorten(job.output))}" if outcome.reason else ""
    return f"{state}{escape(job.label)}{value}  ({duration(outcome.seconds)}){reason}"


def _progress_cells(progress: dict[str, Any] | None) -> tuple[str, str]:
    if progress is None:
        return "", ""
    best = "" if progress["best"] is None else metric_text(str(progress["metric"]), progress["best"])
    epochs = "" if progress["max_epochs"] is None else f"/{progress['max_epochs']}"
    return f"{progress['epoch']}{epochs}", best


def _left(progress: dict[str, Any] | None) -> str:
    if progress is None or not progress["epoch"] or not progress["max_epochs"]:
        return ""
    return duration(progress["seconds"] / progress["epoch"] * (progress["max_epochs"] - progress["epoch"]))
