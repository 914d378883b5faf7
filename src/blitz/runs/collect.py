"""Read the records of many run directories, without torch and quickly."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from blitz.errors import UserError
from blitz.runs.compatibility import upgrade_config
from blitz.runs.status import STATUS, Status, read_progress, read_status

MARKS = ("config.yaml", "error.txt", STATUS)  # a directory with one of them is a run's
GROUPS = ("data", "device", "task", "trainer")  # every config of a run has them
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast: 1.5 ms for a config


@dataclass(frozen=True)
class Record:
    """The current state of a run.

    Args:
        config: the recorded config; empty if the run ended before it was written.
        command_line: the overrides of the command line.
        metrics: the final metrics; empty if the run is not done.
        progress: content of ``progress.json``; empty if there is none.
        references: keys whose value is computed from other keys; None if the run did not record them.
        started: time of the first record, in seconds.
    """

    path: Path
    status: Status
    config: dict[str, Any] = field(repr=False)
    command_line: list[str] = field(repr=False)
    metrics: dict[str, float | None] = field(repr=False)
    progress: dict[str, Any] = field(repr=False)
    references: frozenset[str] | None = field(repr=False)
    started: float
    recorded_seconds: float | None = None

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Values of the command line by key, as text."""
        return dict(map(_split, self.command_line))

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config by dotted key. The value of a node with a ``_target_`` is the name of its class."""
        return dict(_flatten(self.config))

    @property
    def metric(self) -> str | None:
        """Name of the optimized metric."""
        name = self.config.get("optimized_metric")
        return None if name is None else str(name)

    @property
    def test_metric(self) -> str | None:
        """The same metric of the test."""
        return None if self.metric is None else f"test/{self.metric.rpartition('/')[2]}"

    @property
    def minimized(self) -> bool:
        return self.config.get("direction") == "min"

    @property
    def best(self) -> float | None:
        """The optimized metric of the tested checkpoint. Of a run that is not done, its best value so far."""
        if self.status.state == "done":
            return self.metrics.get(self.metric or "")
        return self.progress.get("best")

    @property
    def test(self) -> float | None:
        return self.metrics.get(self.test_metric or "")

    @property
    def worst_class(self) -> tuple[str, float] | None:
        """The class with the worst test metric, and its value. None if the metric is not known by class."""
        prefix = f"{self.test_metric}/"
        found = [
            (value, name.removeprefix(prefix))
            for name, value in self.metrics.items()
            if name.startswith(prefix) and value is not None
        ]
        if not found:
            return None
        value, name = max(found) if self.minimized else min(found)
        return name, value

    @property
    def seconds(self) -> float | None:
        """Time of the training, over all resumes."""
        return self.progress.get("seconds", self.recorded_seconds)

    @property
    def samples_per_second(self) -> float | None:
        return self.progress.get("samples_per_second")

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was tested. None if the run keeps none."""
        paths = (self.path / "checkpoints" / name for name in ("best.ckpt", "resume.ckpt"))
        return next((path for path in paths if path.exists()), None)


def collect(directories: Iterable[Path]) -> list[Record]:
    """Return the training runs below some directories, in the order of their paths. Evaluations are left out.

    Print one line for each run that cannot be read, and leave it out.
    """
    found = {path.resolve(): path for directory in directories for path in find_runs(directory)}
    records = []
    for path in found.values():
        try:
            if (record := read_record(path)) is not None:
                records.append(record)
        except (UserError, OSError) as error:  # an OSError: the run was resumed or removed meanwhile
            print(f"{error}; left out", file=sys.stderr)
    return records


def find_runs(directory: Path) -> Iterator[Path]:
    """Yield the run directories below a directory, or the directory itself if it is one."""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        print(f"{directory}: cannot be read ({error.strerror}); left out", file=sys.stderr)
        return
    if any(entry.name in MARKS for entry in entries):
        yield directory
        return
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from find_runs(entry)


def read_record(path: Path) -> Record | None:
    """Read a run directory. Return None for the directory of an evaluation.

    Raises:
        UserError: a file is damaged, or not that of a run.
    """
    overrides = [str(text) for text in _read(path / "overrides.yaml", list) or []]
    if overrides and overrides[0].startswith("checkpoint="):
        return None
    config = _read(path / "config.yaml", dict) or {}
    if config and not all(group in config for group in GROUPS):
        raise UserError(f"{path / 'config.yaml'}: not the config of a run")
    environment = _read(path / "environment.json", dict) or {}
    status = read_status(path)
    recorded = _read_optional(path / STATUS)
    return Record(
        path,
        status,
        upgrade_config(config) if config else {},
        overrides,
        (_read(path / "metrics.json", dict) or {}) if status.state == "done" else {},
        read_progress(path) or {},
        frozenset(environment["references"]) if "references" in environment else None,
        min((path / name).stat().st_mtime for name in ("", "overrides.yaml", *MARKS) if (path / name).exists()),
        recorded.get("seconds"),
    )


def _read(file: Path, kind: type) -> Any:
    """Return the content of a YAML or JSON file, or None if it does not exist."""
    try:
        if file.exists() and not file.is_file():  # reading a pipe would block forever
            raise ValueError("not a regular file")
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.load(text, Loader=Loader)
        if not isinstance(content, kind):
            raise ValueError(f"expected a {kind.__name__}")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:100]})") from error


def _read_optional(file: Path) -> dict[str, Any]:
    try:
        return _read(file, dict) or {}
    except UserError:
        return {}


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value.strip("'\"")


def _flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its value. Lists are values, as text."""
    if not isinstance(node, dict):
        yield path, json.dumps(node) if isinstance(node, list) else node
        return
    for key, value in node.items():
        if key == "_target_":  # a schedule of Lightning wraps the class, together with its interval
            yield path.removesuffix(".scheduler"), str(value).rpartition(".")[2]
        elif key not in ("_partial_", "_recursive_", "_convert_", "_args_"):
            yield from _flatten(value, f"{path}.{key}" if path else str(key))
