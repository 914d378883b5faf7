"""A run directory: the names of its files, and how a run is created and finished.

============================  =================================================================
config.yaml                   the composed config with every interpolation resolved and the seed that was drawn
overrides.yaml                the overrides of the command line
environment.json              command, package versions, machine, git commit, checksums of the data
git.diff                      the uncommitted changes, if there are any
checkpoints/                  best.ckpt by the monitored metric; last.ckpt and previous.ckpt to resume from
events.out.tfevents...        TensorBoard
per_class.csv, confusion.csv  tables of the task; an image classifier writes these two
metrics.json                  the final metrics; a run is finished if it exists
error.txt                     the traceback of a run that failed
============================  =================================================================
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import yaml

from blitz.config.paths import as_override
from blitz.errors import UserError
from blitz.runs.atomic import write_atomically
from blitz.runs.metadata import environment, git
from blitz.runs.report import Report

LAST, PREVIOUS, NEXT = "last.ckpt", "previous.ckpt", "next.ckpt"
RESUMABLE = (LAST, PREVIOUS)  # newest first


@dataclass(frozen=True)
class Run:
    """Read access to a run directory."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """The recorded config."""
        return dict(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")))

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command line, in order."""
        file = self.path / "overrides.yaml"
        return list(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.exists() else []

    @property
    def environment(self) -> dict[str, Any]:
        """The recorded metadata."""
        file = self.path / "environment.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @property
    def metrics(self) -> dict[str, float | None] | None:
        """The final metrics by their logged names, or None if the run is not finished. An undefined metric is None."""
        file = self.path / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def saved(self) -> bool:
        """Whether there is a checkpoint to resume from. A run without one starts again with the same weights."""
        return any((self.checkpoints / name).exists() for name in RESUMABLE)

    def checkpoint(self) -> Path | None:
        """Return the best checkpoint by the monitored metric, or the last one if no metric is monitored."""
        candidates = (self.checkpoints / name for name in ("best.ckpt", *RESUMABLE))
        return next((path for path in candidates if path.exists()), None)


def create_run(path: Path, config: Mapping[str, Any], overrides: Sequence[str], **metadata: Any) -> Run:
    """Create a run in a directory and record its config, overrides and environment.

    Args:
        metadata: added to ``environment.json``.

    Raises:
        UserError: the directory already holds a run.
    """
    if (path / "config.yaml").exists():
        raise UserError(
            f"{path} already holds a run, and runs are never overwritten; choose another hydra.run.dir, "
            f"or resume it: {as_override('resume', path)}"
        )
    contents = {
        "overrides.yaml": as_yaml(list(overrides)),
        "environment.json": as_json(environment() | metadata),
        "git.diff": git("diff", "HEAD", "--binary"),
        "config.yaml": as_yaml(dict(config)),  # last: it marks the directory as a run's
    }
    path.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in contents.items():
            if content:
                write_atomically(path / name, content)
    except OSError:  # for example a full disk: leave no incomplete run
        for name in contents:
            (path / name).unlink(missing_ok=True)
        raise
    return Run(path)


def finish_run(run: Run, metrics: Mapping[str, SupportsFloat], report: Report) -> None:
    """Write the tables of the report, and then the final metrics, which mark the run as finished."""
    for name, rows in report.tables.items():
        with (run.path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    values = {name: float(value) for name, value in metrics.items()} | dict(report.metrics)
    write_atomically(run.path / "metrics.json", as_json(dict(sorted(values.items()))))


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
