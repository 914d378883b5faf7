"""Restore a run directory to its newest intact checkpoint, so that the run continues as if it had never stopped."""

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Trainer

from blitz.config.paths import as_override
from blitz.errors import UserError
from blitz.runs.atomic import TEMPORARY, write_atomically
from blitz.runs.checkpoint import read_checkpoint
from blitz.runs.folder import LAST, NEXT, PREVIOUS, RESUMABLE, Run, as_json, as_yaml
from blitz.runs.metadata import environment
from blitz.runs.reproduce import changes, comparable


class Resumable(NamedTuple):
    """The checkpoint to resume from.

    Args:
        path: None if nothing was saved yet.
        damaged: a line for each newer checkpoint that cannot be used.
        differences: a line for each change of code, packages, machine or data since the run began.
    """

    path: Path | None
    checkpoint: dict[str, Any]
    damaged: list[str]
    differences: Sequence[str] = ()


def newest_intact(run: Run) -> Resumable:
    """Find the newest checkpoint that is intact.

    Raises:
        UserError: there are checkpoints, and none of them can be resumed from.
    """
    damaged: list[str] = []
    for path in (run.checkpoints / name for name in RESUMABLE):
        if path.exists():
            try:
                checkpoint = read_checkpoint(path)
                if "resume" not in checkpoint:
                    raise UserError(f"{path}: it holds weights alone, without the state to resume from")
                return Resumable(path, checkpoint, damaged)
            except UserError as error:
                damaged.append(str(error))
    if damaged:
        raise UserError("; ".join(damaged))
    return Resumable(None, {}, [])


def restore(
    run: Run, trainer: Trainer, config: Mapping[str, Any], overrides: Sequence[str], metadata: Mapping[str, Any]
) -> Resumable:
    """Restore the run directory to its newest intact checkpoint and record ``config``, the config from now on.

    Args:
        overrides: the overrides that are new to the run.
        metadata: of this process, as ``training.build.metadata`` returns it.

    Raises:
        UserError: checkpoints or data were changed, or ``trainer`` cannot continue exactly. No file is changed.
    """
    found = newest_intact(run)
    if found.path is not None:
        _check_limits(run, found.checkpoint, trainer)
    _check_data(run, metadata["data"])
    differences = changes(comparable(run.environment), comparable({**environment(), **metadata}))
    _reopen(run, config, overrides, differences)
    if found.path == run.checkpoints / PREVIOUS:
        (run.checkpoints / LAST).unlink(missing_ok=True)  # damaged; the next save would keep it as the previous one
    for pattern in (f"*{TEMPORARY}", NEXT):  # left by a process that was killed while it saved
        for leftover in run.checkpoints.glob(pattern):
            leftover.unlink()
    positions = found.checkpoint["resume"]["loggers"] if found.checkpoint else [{}] * len(trainer.loggers)
    for logger, position in zip(trainer.loggers, positions, strict=True):
        if hasattr(logger, "truncate_to"):
            logger.truncate_to(position)
    return found._replace(differences=differences)


def _check_data(run: Run, checksums: Mapping[str, str]) -> None:
    for split, before in run.environment.get("data", {}).items():
        same_kind = checksums[split].partition(":")[0] == before.partition(":")[0]  # pixels, or file names and sizes
        if same_kind and checksums[split] != before:
            raise UserError(
                f"data.root={run.config['data']['root']}: the {split} images are not those that the run began with; "
                f"to start a new run from its weights: blitz-train {as_override('init_from', run.path)}"
            )


def _check_limits(run: Run, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    steps, loop = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    for key, done, limit in (
        ("max_epochs", epochs["completed"], trainer.max_epochs),
        ("max_steps", steps, trainer.max_steps),
    ):
        if limit not in (None, -1) and done > limit:
            raise UserError(f"trainer.{key}={limit}: the run has already done {done}; expected at least {done}")
    ended = epochs["completed"] == epochs["ready"] and not checkpoint["resume"]["should_stop"]
    if ended and not loop["epoch_loop.batch_progress"]["is_last_batch"] and trainer.max_steps != steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: the run ended after step {steps}, within an epoch, and cannot "
            f"continue there; to start a new run from its weights: blitz-train {as_override('init_from', run.path)}"
        )


def _reopen(run: Run, config: Mapping[str, Any], overrides: Sequence[str], differences: Sequence[str]) -> None:
    """Remove the results, and add this process to ``resumed`` in ``environment.json``."""
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "error.txt"):  # first: the run is unfinished again
        (run.path / name).unlink(missing_ok=True)
    for leftover in run.path.glob(f"*{TEMPORARY}"):  # left by a process that was killed while it wrote
        leftover.unlink()
    current, recorded = environment(), run.environment
    resumed = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": current["command"],
        "git_commit": current["git_commit"],
        "differs": list(differences),
    }
    write_atomically(
        run.path / "environment.json", as_json(recorded | {"resumed": [*recorded.get("resumed", []), resumed]})
    )
    if dict(config) != run.config:  # before the overrides: an override that is recorded counts as applied
        write_atomically(run.path / "config.yaml", as_yaml(dict(config)))
    if overrides:
        write_atomically(run.path / "overrides.yaml", as_yaml([*run.overrides, *overrides]))
