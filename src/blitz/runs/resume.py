"""Restore a run directory to its newest intact checkpoint, so that the run continues as if it had never stopped."""

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning import Trainer

from blitz.config.keys import leaves
from blitz.config.paths import as_override
from blitz.errors import UserError
from blitz.runs.atomic import TEMPORARY, write_all
from blitz.runs.checkpoint import best_or_last_checkpoint, read_checkpoint
from blitz.runs.folder import LAST, NEXT, OLD_NAMES, PREVIOUS, Run, as_json, as_yaml
from blitz.runs.metadata import environment, uncommitted
from blitz.runs.overrides import may_change_on_resume, move
from blitz.runs.reproduce import changes, comparable

RESULTS = (
    "metrics.json",
    "per_class.csv",
    "confusion.csv",
    "error.txt",
    "status.json",
)  # files of a run that has ended


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
    for path in run.resumable:
        try:
            checkpoint = read_checkpoint(path)
            if "resume" not in checkpoint:
                raise UserError(f"{path}: it holds no state to resume from")
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

    Everything is checked first, then the new records are written, and only then old results are deleted.

    Args:
        overrides: the overrides that are new to the run.
        metadata: of this process, as ``training.build.metadata`` returns it.

    Raises:
        UserError: checkpoints, config or data were changed, or ``trainer`` cannot continue exactly. No file is changed.
        OSError: the new records cannot be written. No file is changed.
    """
    found = newest_intact(run)
    if found.path is not None:
        _check_config(run, found, config)
        _check_limits(run, found.checkpoint, trainer)
        _check_best(run)
    _check_files(run)
    _check_data(run, metadata["data"])
    now = environment()
    differences = changes(comparable(run.environment, run.patch), comparable({**now, **metadata}, uncommitted()))
    if not run.environment:
        differences.append("environment.json is missing: code, packages, machine and data cannot be compared")
    positions = found.checkpoint["resume"]["loggers"] if found.checkpoint else [{}] * len(trainer.loggers)
    write_all(_new_records(run, config, overrides, now, differences))
    for logger, position in zip(trainer.loggers, positions, strict=True):
        if hasattr(logger, "truncate_to"):
            logger.truncate_to(position)
    for name in RESULTS:
        (run.path / name).unlink(missing_ok=True)
    found = found._replace(path=_rename_old_checkpoints(run, found.path))
    if found.path == run.checkpoints / PREVIOUS:
        (run.checkpoints / LAST).unlink(missing_ok=True)  # damaged; the next save would keep it as the previous one
    if found.path is None:  # the run starts again: delete checkpoints of steps that it will repeat
        for checkpoint in run.checkpoints.rglob("*.ckpt"):
            checkpoint.unlink()
    for leftover in (*run.path.glob(f"*{TEMPORARY}"), *run.checkpoints.glob(f"*{TEMPORARY}"), run.checkpoints / NEXT):
        leftover.unlink(missing_ok=True)  # left by a process that was killed while it wrote
    return found._replace(differences=differences)


def _rename_old_checkpoints(run: Run, path: Path | None) -> Path | None:
    """Rename the checkpoints of an earlier version to the current names. Return the new path of ``path``."""
    if path is None or path.name not in OLD_NAMES:
        return path
    for old, new in OLD_NAMES.items():
        if (run.checkpoints / old).exists():
            (run.checkpoints / old).replace(run.checkpoints / new)
    return path.with_name(OLD_NAMES[path.name])


def _check_config(run: Run, found: Resumable, config: Mapping[str, Any]) -> None:
    """Refuse a config that differs from the checkpoint's in a key that a resumed run must not change."""
    saved, new = (move(node, str(node["run_dir"]), "") for node in (found.checkpoint["config"], dict(config)))
    before, after = (dict(leaves({name: node[name] for name in saved if name in new})) for node in (saved, new))
    for key in after | before:
        if after.get(key) != before.get(key) and not may_change_on_resume(key):
            raise UserError(
                f"{run.path / 'config.yaml'}: {key}={after.get(key)}, but {found.path} has {before.get(key)}; "
                "expected the config as the run wrote it; to start a new run from its weights: "
                f"blitz-train {as_override('init_from', run.path)} {as_override(key, str(after.get(key)))}"
            )


def _check_files(run: Run) -> None:
    """Refuse files that cannot be written or deleted, before any file is changed."""
    written = [
        run.path / name for name in ("config.yaml", "overrides.yaml", "environment.json", "metrics.csv", *RESULTS)
    ]
    for path in (*written, *run.path.glob("events.out.tfevents.*")):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f"{path}: not a regular file; expected the file as the run wrote it")
        if path.exists():
            path.open("rb+").close()  # raises if it cannot be written


def _check_best(run: Run) -> None:
    """Refuse a damaged best checkpoint, and a missing one if the run is finished. Otherwise it may be saved again."""
    try:
        best = best_or_last_checkpoint(run)
    except UserError:
        if run.metrics is not None:
            raise
    else:
        read_checkpoint(best)


def _check_data(run: Run, checksums: Mapping[str, str]) -> None:
    """Refuse data with other checksums. Those of earlier versions cannot be compared, which ``changes`` reports."""
    recorded: dict[str, str] = run.environment.get("data", {})
    for split in recorded | dict(checksums if recorded else {}):
        before, now = (known.get(split, "") for known in (recorded, checksums))
        same_kind = not before or not now or before.partition(":")[0] == now.partition(":")[0]
        if same_kind and before != now:
            raise UserError(
                f"data.root={run.config['data'].get('root')}: the {split} images are not those that the run began "
                f"with; to start a new run from its weights: blitz-train {as_override('init_from', run.path)}"
            )


def _check_limits(run: Run, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    steps, loop = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    for key, begun, limit in (
        ("max_epochs", epochs["ready"], trainer.max_epochs),
        ("max_steps", steps, trainer.max_steps),
    ):
        if limit not in (None, -1) and begun > limit:
            raise UserError(f"trainer.{key}={limit}: the run has already begun {begun}; expected at least {begun}")
    ended = epochs["completed"] == epochs["ready"] and not checkpoint["resume"]["should_stop"]
    if ended and not loop["epoch_loop.batch_progress"]["is_last_batch"] and trainer.max_steps != steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: the run ended after step {steps}, within an epoch, and cannot "
            f"continue there; to start a new run from its weights: blitz-train {as_override('init_from', run.path)}"
        )


def _new_records(
    run: Run, config: Mapping[str, Any], overrides: Sequence[str], now: Mapping[str, Any], differences: Sequence[str]
) -> dict[Path, bytes]:
    """Return the new content of each record. ``resumed`` in ``environment.json`` gets an entry for this process."""
    recorded = run.environment
    resumed = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": now["command"],
        "git_commit": now["git_commit"],
        "differs": list(differences),
    }
    records = {"environment.json": as_json(recorded | {"resumed": [*recorded.get("resumed", []), resumed]})}
    if dict(config) != run.config:
        records["config.yaml"] = as_yaml(dict(config))
    if overrides:  # last: an override that is recorded counts as applied
        records["overrides.yaml"] = as_yaml([*run.overrides, *overrides])
    return {run.path / name: content for name, content in records.items()}
