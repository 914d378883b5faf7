"""A run directory: the names of its files, and how a run is created and finished.

============================  =================================================================
config.yaml                   the composed config with every interpolation resolved and the seed that was drawn
overrides.yaml                the overrides of the command line
environment.json              command, package versions, machine, git commit, checksums of the data
git.diff                      the uncommitted changes, if there are any
checkpoints/                  best.ckpt by the monitored metric; resume.ckpt and resume-previous.ckpt to resume from
events.out.tfevents...        TensorBoard
per_class.csv, confusion.csv  tables of the task; an image classifier writes these two
reconstructions.png           files of the task; an autoencoder writes this one
metrics.json                  the final metrics: training of the last epoch, validation and test of the tested
                              checkpoint; a run is finished if this file exists
progress.json                 how far the training is: epoch, optimized metric, seconds and samples
error.txt                     the traceback of a run that failed
output.log                    what a job of a sweep has printed
status.json                   of a job of a sweep that did not finish: its state and the reason
============================  =================================================================
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import yaml

from blitz.config.paths import as_override
from blitz.errors import RunExistsError, UserError
from blitz.runs.atomic import write_all
from blitz.runs.metadata import environment, uncommitted
from blitz.runs.report import Report, Rows

# Names that ModelCheckpoint does not use: it names files by metrics, "best", or with ``save_last`` "last".
LAST, PREVIOUS, NEXT = "resume.ckpt", "resume-previous.ckpt", "resume-next.ckpt"
RESUMABLE = (LAST, PREVIOUS)  # newest first
SOURCE = "source.json"  # of predictions or an exported model: checkpoint, command, packages and machine
OLD_NAMES = {"last.ckpt": LAST, "previous.ckpt": PREVIOUS}  # until 2026-11


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
    def patch(self) -> bytes:
        """The uncommitted changes of the project when the run began."""
        file = self.path / "git.diff"
        return file.read_bytes() if file.exists() else b""

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
        return self.last_checkpoint is not None

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint to resume from, which may be damaged. None if there is none."""
        return next(iter(self.resumable), None)

    @property
    def resumable(self) -> list[Path]:
        """The checkpoints to resume from, newest first; they may be damaged.

        Old names count only if there are no new ones, because a ModelCheckpoint may save ``last.ckpt``, too.
        """
        for names in (RESUMABLE, OLD_NAMES):
            if found := [path for name in names if (path := self.checkpoints / name).exists()]:
                return found
        return []


def create_run(path: Path, config: Mapping[str, Any], overrides: Sequence[str], **metadata: Any) -> Run:
    """Create a run in a directory and record its config, overrides and environment.

    Args:
        metadata: added to ``environment.json``.

    Raises:
        RunExistsError: the directory already holds a run.
    """
    if (path / "config.yaml").exists():
        raise RunExistsError(
            f"{path} already holds a run, and runs are never overwritten; choose another hydra.run.dir "
            f"or hydra.sweep.dir, or resume it: {as_override('resume', path)}"
        )
    contents = {
        "overrides.yaml": as_yaml(list(overrides)),
        "environment.json": as_json(environment() | metadata),
        "git.diff": uncommitted(),
        "config.yaml": as_yaml(dict(config)),  # last: it marks the directory as a run's
    }
    path.mkdir(parents=True, exist_ok=True)
    write_all({path / name: content for name, content in contents.items() if content})
    return Run(path)


def finish_run(run: Run, metrics: Mapping[str, SupportsFloat], report: Report) -> None:
    """Write the tables and files of the report and the final metrics, which mark the run as finished.

    A metric that is undefined, infinite or NaN is written as null, because JSON cannot hold it.

    Raises:
        UserError: the run directory was deleted.
    """
    if not (run.path / "config.yaml").exists():
        raise UserError(f"{run.path}: its files were deleted during the run; its results cannot be recorded")
    values = {name: float(value) for name, value in metrics.items()} | dict(report.metrics)
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
    tables = {run.path / f"{name}.csv": as_csv(rows) for name, rows in report.tables.items()}
    files = {run.path / name: content for name, content in report.files.items()}
    write_all(tables | files | {run.path / "metrics.json": as_json(dict(sorted(finite.items())))})


def refuse_results(directory: Path, *names: str) -> None:
    """Refuse a directory that already holds results, or a file with one of these ``names``.

    Raises:
        RunExistsError: with the path of the file.
    """
    for path in (directory / name for name in (SOURCE, *names)):
        if path.exists():
            raise RunExistsError(f"{path} exists, and results are never overwritten; expected a new output_dir")


def write_results(directory: Path, contents: Mapping[str, bytes], source: Mapping[str, Any]) -> list[Path]:
    """Write results other than those of a run, and their origin as ``source.json``. Return the paths of the results.

    Raises:
        RunExistsError: the directory already holds results.
    """
    refuse_results(directory, *contents)
    paths = {directory / name: content for name, content in contents.items()}
    directory.mkdir(parents=True, exist_ok=True)
    write_all({**paths, directory / SOURCE: as_json(dict(source))})
    return list(paths)


def as_csv(rows: Rows) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def as_yaml(value: Any) -> bytes:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode()


class _Dumper(yaml.SafeDumper):
    """A dumper that escapes characters that are not printable: YAML reads U+0085 as a line break."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
