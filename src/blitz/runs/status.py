"""State of a run directory: whether it is done, running, failed, pruned or interrupted, and how far it is."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from blitz.runs import lock

State = Literal["done", "running", "pruned", "failed", "interrupted"]
PROGRESS, STATUS = "progress.json", "status.json"


class Status(NamedTuple):
    """The state of a run, and one line that says why it is not done."""

    state: State
    reason: str = ""


def read_status(run_dir: Path) -> Status:
    """Return the state of a run, without changing any file.

    A run whose metrics are not finite is failed: it has both ``metrics.json`` and ``error.txt``.
    """
    if lock.is_held(run_dir):
        return Status("running")
    error = run_dir / "error.txt"
    if (run_dir / "metrics.json").exists() and not error.exists():
        return Status("done")
    recorded = _read_json(run_dir / STATUS) or {}
    if recorded.get("state") in get_args(State):
        return Status(recorded["state"], _one_line(str(recorded.get("reason", ""))))
    if error.exists():
        return Status("failed", _reason(error.read_text(encoding="utf-8", errors="replace")))
    return Status("interrupted", "it ended without results")


def read_progress(run_dir: Path) -> dict[str, Any] | None:
    """Return ``progress.json``: how far the training is. Return None if there is no such file, or a damaged one.

    - epoch, max_epochs: finished epochs, and their number at the end; None if there is no limit.
    - metric, last, best: name of the optimized metric, its newest value and its best one; None if there is none.
    - seconds: time of the training with its validations, over all resumes.
    - samples: samples of the training, over all resumes; None if the batches have no size.
    - samples_per_second: speed of the last process that trained, without its validations.
    """
    return _read_json(run_dir / PROGRESS)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _reason(traceback: str) -> str:
    """Return the exception of a traceback in one line. An error of the user needs no type."""
    last = traceback.rpartition("Traceback (most recent call last):")[2].splitlines()
    lines = [line for line in last if line.strip() and not line.startswith(" ")]
    kind, _, message = (lines[0] if lines else traceback).partition(": ")
    return _one_line(message if kind.startswith("blitz.errors.") and message else f"{kind}: {message}".rstrip(": "))


def _one_line(text: str) -> str:
    return " ".join(text.split())
