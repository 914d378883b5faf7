"""Corrections of Lightning's progress counters, so that a run resumes exactly where ``LastCheckpoint`` saved it.

Lightning counts each step and each epoch as ready, started, processed and completed. It restarts a step or an epoch
whose counts differ. ``LastCheckpoint`` saves when the next step or epoch is ready but not started, so it takes that
one back in the checkpoint.

Lightning documents neither these keys nor the methods of its loops, though their names are public. With a version that
lacks them, runs are saved at the end of an epoch and resume as Lightning does. ``TESTED`` lists the versions with which
a run was stopped and resumed at every step.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning
from lightning import Trainer

TESTED = ("2.6.6",)
PARTS = ("total", "current")


def exactness() -> str | None:
    """Return a line for the user if this version of Lightning was never tried; None if exact resume is proven."""
    if lightning.__version__ in TESTED:
        return None
    return (
        f"lightning {lightning.__version__}: exact resume is proven for {', '.join(TESTED)} only; "
        "this run may differ from an uninterrupted one"
    )


def can_take_back(trainer: Trainer) -> bool:
    """Return whether this version of Lightning counts as ``take_back`` expects."""
    try:
        loop = trainer.fit_loop.state_dict()
        counts = [loop[key][part] for key in ("epoch_loop.batch_progress", "epoch_progress") for part in PARTS]
        return all({"ready", "completed"} <= count.keys() for count in counts)
    except (AttributeError, KeyError, TypeError):
        return False


def take_back(checkpoint: dict[str, Any], batch: int) -> None:
    """Take back the step that follows ``batch`` finished ones in ``checkpoint``; if ``batch`` is 0, the next epoch."""
    with suppress(KeyError):
        loop = checkpoint["loops"]["fit_loop"]
        progress = loop["epoch_loop.batch_progress" if batch else "epoch_progress"]
        for part in PARTS:
            progress[part]["ready"] = progress[part]["completed"]
        if batch:
            progress["is_last_batch"] = False
        for state in loop["state_dict"].get("combined_loader", []):
            if "taken" in state:
                state["taken"] = batch  # the batch of the open step was already fetched


def finished_batches(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of finished batches of the epoch in which the checkpoint was saved; 0 between two epochs."""
    with suppress(KeyError):
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        if epochs["ready"] != epochs["completed"]:
            return int(loop["epoch_loop.batch_progress"]["current"]["completed"])
    return 0


def drop_loader_states(checkpoint: dict[str, Any]) -> None:
    """Keep Lightning from restoring the loaders.

    It does so too late if a schedule has asked for the number of steps: the loaders' iterators exist by then.
    """
    with suppress(KeyError):
        checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)


def repeat_epoch_start(trainer: Trainer) -> None:
    """Make Lightning call ``on_train_epoch_start`` when it resumes within an epoch. It would skip this hook."""
    with suppress(AttributeError):
        progress = trainer.fit_loop.epoch_progress
        trainer.fit_loop.reset_restart_stage()
        for part in (progress.total, progress.current):
            part.load_state_dict({"ready": part.completed, "started": part.completed})


def begin_epoch(trainer: Trainer) -> None:
    """Begin a new epoch after a checkpoint between two epochs. Lightning repeats the last if ``max_steps`` is set."""
    with suppress(AttributeError):
        trainer.fit_loop.epoch_loop.restarting = False


def end_restart(trainer: Trainer) -> None:
    """Treat the current epoch as any other.

    At the end of a restarted one Lightning would skip the schedules that depend on a metric, and after a checkpoint
    between two epochs it would not make a new iterator.
    """
    with suppress(AttributeError):
        trainer.fit_loop.on_iteration_done()
