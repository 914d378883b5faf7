"""Take a run's folder back to a checkpoint, so that what goes on there is the run as if it had never ended."""

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Trainer

from blitz import atomic
from blitz.atomic import TEMPORARY
from blitz.callback.last_checkpoint import NEXT
from blitz.runs import RESUMABLE, Run, as_json, as_yaml, environment, read_checkpoint


class Resumable(NamedTuple):
    """``path`` is None where nothing was saved yet; ``damaged`` says which newer checkpoints are, a line each."""

    path: Path | None
    checkpoint: dict[str, Any]
    damaged: list[str]


def newest(run: Run) -> Resumable:
    """Where the run can go on: its newest checkpoint that is whole.

    Raises:
        ValueError: it has checkpoints, and all are damaged.
    """
    damaged: list[str] = []
    for path in (run.path / "checkpoints" / name for name in RESUMABLE):
        if path.exists():
            try:
                return Resumable(path, read_checkpoint(path), damaged)
            except ValueError as error:
                damaged.append(str(error))
    if damaged:
        raise ValueError("; ".join(damaged))
    return Resumable(None, {}, [])


def go_on(run: Run, trainer: Trainer, config: Mapping[str, Any], words: Sequence[str]) -> Resumable:
    """Take the run's folder back to its newest checkpoint, with ``config`` from here on.

    Args:
        words: of the command line, that are new to the run.

    Raises:
        ValueError: all its checkpoints are damaged, or ``trainer`` cannot go on from there as if it had not ended.
    """
    found = newest(run)
    state = found.checkpoint
    if found.path is not None:
        _check_limits(run, state, trainer)
    _reopen(run, config, words)
    for pattern in (f"*{TEMPORARY}", NEXT):  # of a process that was killed while it was saving
        for left in (run.path / "checkpoints").glob(pattern):
            left.unlink()
    marks = state["resume"]["loggers"] if state else {}
    for logger in trainer.loggers:
        if hasattr(logger, "rewind"):
            logger.rewind(marks.get(type(logger).__name__, {}))
    return found


def _check_limits(run: Run, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    steps, loop = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    for key, done, limit in (
        ("max_epochs", epochs["completed"], trainer.max_epochs),
        ("max_steps", steps, trainer.max_steps),
    ):
        if limit not in (None, -1) and done > limit:
            raise ValueError(f"trainer.{key}={limit} is not valid: {done} are done already")
    over = epochs["completed"] == epochs["ready"] and not checkpoint["resume"]["should_stop"]
    if over and not loop["epoch_loop.batch_progress"]["is_last_batch"] and trainer.max_steps != steps:
        raise ValueError(
            f"trainer.max_steps={trainer.max_steps}: the run has ended after step {steps}, within an epoch, whose rest "
            f"is lost; to train on from its weights: blitz-train init_from={run.path}"
        )


def _reopen(run: Run, config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Remove what tells of its end, and say in environment.json under ``resumed`` who goes on, and with what."""
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "error.txt"):  # first: it is not finished any more
        (run.path / name).unlink(missing_ok=True)
    for left in run.path.glob(f"*{TEMPORARY}"):  # of a process that was killed as it wrote
        left.unlink()
    now, was = environment(), run.environment
    known = was.get("packages", {})
    resumed = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": now["command"],
        "git_commit": now["git_commit"],
        "packages": {name: version for name, version in now["packages"].items() if known.get(name) != version},
    }
    atomic.write(run.path / "environment.json", as_json(was | {"resumed": [*was.get("resumed", []), resumed]}))
    if words:
        atomic.write(run.path / "overrides.yaml", as_yaml([*run.overrides, *words]))
    if dict(config) != run.config:
        atomic.write(run.path / "config.yaml", as_yaml(dict(config)))
