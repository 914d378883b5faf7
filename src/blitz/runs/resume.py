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
from blitz.callback.last_checkpoint import LAST, NEXT, PREVIOUS
from blitz.config import word
from blitz.reproduce import changes, facts_of
from blitz.runs import RESUMABLE, Run, as_json, as_yaml, environment, read_checkpoint


class Resumable(NamedTuple):
    """``path`` is None where nothing was saved yet; ``damaged`` says which newer checkpoints are, a line each, and
    ``differs`` what is not as it was when the run began.
    """

    path: Path | None
    checkpoint: dict[str, Any]
    damaged: list[str]
    differs: Sequence[str] = ()


def newest(run: Run) -> Resumable:
    """Where the run can go on: its newest checkpoint that is whole.

    Raises:
        ValueError: it has checkpoints, and none can be gone on from.
    """
    damaged: list[str] = []
    for path in (run.path / "checkpoints" / name for name in RESUMABLE):
        if path.exists():
            try:
                checkpoint = read_checkpoint(path)
                if "resume" not in checkpoint:
                    raise ValueError(f"{path}: weights alone, which a run cannot go on from")
                return Resumable(path, checkpoint, damaged)
            except ValueError as error:
                damaged.append(str(error))
    if damaged:
        raise ValueError("; ".join(damaged))
    return Resumable(None, {}, [])


def go_on(
    run: Run, trainer: Trainer, config: Mapping[str, Any], words: Sequence[str], facts: Mapping[str, Any]
) -> Resumable:
    """Take the run's folder back to its newest checkpoint, with ``config`` from here on.

    Args:
        words: of the command line, that are new to the run.
        facts: as ``build.facts`` gives them, of today.

    Raises:
        ValueError: its checkpoints or its data are not what they were, or ``trainer`` cannot go on from there as if it
            had not ended. Nothing is touched then.
    """
    found = newest(run)
    state = found.checkpoint
    if found.path is not None:
        _check_limits(run, state, trainer)
    _check_data(run, facts["data"])
    differs = changes(facts_of(run.environment), facts_of({**environment(), **facts}))
    _reopen(run, config, words, differs)
    folder = run.path / "checkpoints"
    if found.path == folder / PREVIOUS:
        (folder / LAST).unlink(missing_ok=True)  # else it would be kept as the previous one, damaged as it is
    for pattern in (f"*{TEMPORARY}", NEXT):  # of a process that was killed while it was saving
        for left in folder.glob(pattern):
            left.unlink()
    marks = state["resume"]["loggers"] if state else [{}] * len(trainer.loggers)
    for logger, mark in zip(trainer.loggers, marks, strict=True):
        if hasattr(logger, "rewind"):
            logger.rewind(mark)
    return found._replace(differs=differs)


def _check_data(run: Run, now: Mapping[str, str]) -> None:
    for split, was in run.environment.get("data", {}).items():
        same_kind = (
            now[split].partition(":")[0] == was.partition(":")[0]
        )  # decoded pixels, or the files' names and sizes
        if same_kind and now[split] != was:
            raise ValueError(
                f"data.root={run.config['data']['root']}: the {split} images are not those that the run began with; "
                f"to train on with these from its weights: blitz-train {word('init_from', run.path)}"
            )


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
            f"is lost; to train on from its weights: blitz-train {word('init_from', run.path)}"
        )


def _reopen(run: Run, config: Mapping[str, Any], words: Sequence[str], differs: Sequence[str]) -> None:
    """Remove what tells of its end, and say in environment.json under ``resumed`` who goes on, and with what."""
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "error.txt"):  # first: it is not finished any more
        (run.path / name).unlink(missing_ok=True)
    for left in run.path.glob(f"*{TEMPORARY}"):  # of a process that was killed as it wrote
        left.unlink()
    now, was = environment(), run.environment
    resumed = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": now["command"],
        "git_commit": now["git_commit"],
        "differs": list(differs),
    }
    atomic.write(run.path / "environment.json", as_json(was | {"resumed": [*was.get("resumed", []), resumed]}))
    if dict(config) != run.config:  # before the words: one that stands there already is taken as done
        atomic.write(run.path / "config.yaml", as_yaml(dict(config)))
    if words:
        atomic.write(run.path / "overrides.yaml", as_yaml([*run.overrides, *words]))
