"""``checkpoints/last.ckpt``: where a run that was stopped or killed goes on as if it had not been.

Lightning's checkpoints lack the random generators, the metrics that callbacks look at, what the loggers have written
and whether a callback has stopped the training; and its ModelCheckpoint saves in hooks, where a step is not all done.
``blitz.loop`` calls this callback where it is.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import distributed

from blitz.errors import UserError
from blitz.process import random_state
from blitz.process.agreement import Agreement
from blitz.process.signals import Request
from blitz.runs.folder import LAST, NEXT, PREVIOUS


class LastCheckpoint(Checkpoint):
    """Saves every so many steps, after each epoch, at the end, and when a signal asks the run to stop, in
    ``checkpoints`` below the Trainer's ``default_root_dir``.

    On SIGTERM, SIGUSR1 or SIGUSR2 the step is finished, the run saved, and the process ends with status 143; on the
    first Ctrl-C with 130. The second ends it at once. What was saved before is kept as ``previous.ckpt``.

    Args:
        every_n_steps: optimizer steps that a run has to do again at the most when it is killed, but where ...
        time_share: ... more than this part of its time would go into saving: then as many as need be. None: no limit.
    """

    def __init__(self, every_n_steps: int = 100, time_share: float | None = 0.01) -> None:
        if every_n_steps < 1:
            raise UserError(f"callback.last.every_n_steps={every_n_steps} is not valid: it must be >= 1")
        if time_share is not None and not 0 < time_share <= 1:
            raise UserError(f"callback.last.time_share={time_share} is not valid: it must be > 0 and <= 1, or null")
        self.every_n_steps = every_n_steps
        self.time_share = time_share
        self._request = Request()
        self._resumed: dict[str, Any] = {}
        self._saved = (0, 0)
        self._began = self._ended = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        self.folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        randoms: list[Any] = [random_state.get()]
        if trainer.world_size > 1:
            randoms *= trainer.world_size
            distributed.all_gather_object(randoms, randoms[0])
        checkpoint["resume"] = {
            "folder": os.path.realpath(self.folder),
            "random": randoms,
            "metrics": {key: value.detach().cpu().clone() for key, value in trainer.callback_metrics.items()},
            "should_stop": trainer.should_stop,
            "loggers": [
                logger.position(trainer.global_step) if trainer.is_global_zero and hasattr(logger, "position") else {}
                for logger in trainer.loggers
            ],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self._resumed = checkpoint["resume"]
            # ModelCheckpoint forgets what was best where its folder is not the one that it remembers.
            was, now = self._resumed["folder"], os.path.realpath(self.folder)
            checkpoint["callbacks"] = _moved(checkpoint["callbacks"], was, now)
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):  # which saves this and does not read it
                    state = checkpoint["callbacks"].get(callback.state_key, {})
                    callback.current_score = state.get("current_score")

    # What blitz.loop calls.

    @contextmanager
    def on_duty(self) -> Iterator[None]:
        """Around the whole of the training."""
        trainer = self._trainer
        trainer._logger_connector._callback_metrics.update(self._resumed.get("metrics", {}))
        trainer.should_stop = self._resumed.get("should_stop", False)
        self._agreement = Agreement(trainer)
        self._saved = self._progress()
        self._began = self._ended = time.monotonic()
        with self._request.heeded():
            yield
        self._agreement.close()

    def restore_random(self) -> None:
        """Before the first step, when all that prepares it has drawn its random numbers."""
        states = self._resumed.pop("random", [])
        if self._trainer.global_rank < len(states):
            random_state.put(states[self._trainer.global_rank])

    def pause(self) -> None:
        """Nothing is open: what is saved now goes on as if nothing had happened."""
        stop, save = self._agreement(self._request.by is not None, self._is_due())
        if stop or save:
            self._save()
        if stop:
            self._trainer.strategy.barrier()  # what started the processes may kill the rest when the first has ended
            raise SystemExit(self._request.status)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress() != self._saved:
            self._save()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit) and trainer.is_global_zero and trainer.state.fn == "fit":
            by = self._request.by.name if self._request.by else "a signal to another process"
            print(f"stopped by {by} after step {self._saved[0]:,}", file=sys.stderr, flush=True)

    def _progress(self) -> tuple[int, int]:
        """Steps and epochs that are done."""
        return self._trainer.global_step, self._trainer.fit_loop.epoch_progress.current.completed

    def _is_due(self) -> bool:
        steps, epochs = self._progress()
        if steps - self._saved[0] < self.every_n_steps and epochs == self._saved[1]:
            return False
        share = self.time_share
        return share is None or (self._ended - self._began) <= share * (time.monotonic() - self._began)

    def _save(self) -> None:
        if self._trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._began = time.monotonic()
        self._trainer.save_checkpoint(self.folder / NEXT)
        if self._trainer.is_global_zero:
            if (self.folder / LAST).exists():
                (self.folder / LAST).replace(self.folder / PREVIOUS)
            (self.folder / NEXT).replace(self.folder / LAST)
        self._saved, self._ended = self._progress(), time.monotonic()


def _moved(node: Any, was: str, now: str) -> Any:
    """``node`` with the paths in ``was``, keys and values, as they are in ``now``."""
    if isinstance(node, dict):
        return {_moved(key, was, now): _moved(value, was, now) for key, value in node.items()}
    if isinstance(node, str) and f"{node}{os.sep}".startswith(f"{was}{os.sep}"):
        return now + node[len(was) :]
    return node
