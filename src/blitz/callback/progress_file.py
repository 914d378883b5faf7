"""Write ``progress.json``, which tells other processes how far the training of a run is."""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer

from blitz.callback.batch_size import num_samples
from blitz.runs.atomic import write_atomically
from blitz.runs.folder import as_json
from blitz.runs.status import PROGRESS, read_progress


class ProgressFile(Callback):
    """Write ``progress.json`` after each epoch and each validation, and at the end of the training.

    ``runs.status.read_progress`` describes its content.

    Args:
        run_dir: the directory of the file.
        metric: name of the optimized metric. None: there is none.
        direction: whether the smallest or the largest value of ``metric`` is the best.
    """

    def __init__(self, run_dir: str, metric: str | None = None, direction: Literal["min", "max"] = "max") -> None:
        self.path = Path(run_dir) / PROGRESS
        self.metric = metric
        self.direction = direction
        self.last: float | None = None
        self.best: float | None = None
        self.samples = 0
        # Times are not in the checkpoint, because a resumed run must save the same as an uninterrupted one.
        self._earlier: dict[str, Any] = {}  # content of the file before a resume
        self._start: float | None = None
        self._validation_start = self._validation_seconds = 0.0
        self._own_samples = 0  # samples of this process

    # -- hooks --------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier = read_progress(self.path.parent) or {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the previous epoch. Lightning has its training metrics only after ``on_train_epoch_end``."""
        self._update(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        samples = num_samples(batch) * trainer.world_size
        self.samples += samples
        self._own_samples += samples

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validation_seconds += time.monotonic() - self._validation_start
            self._update(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._start is not None:
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "best": self.best, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last, self.best, self.samples = state_dict["last"], state_dict["best"], state_dict["samples"]

    # -- content ------------------------------------------------------------------------------------------------------

    def _update(self, trainer: Trainer) -> None:
        # All ranks read the metrics, because Lightning may reduce them over the ranks now.
        value = trainer.callback_metrics.get(self.metric) if self.metric else None
        if value is not None:
            self.last = float(value)
            if math.isfinite(self.last):
                choose = min if self.direction == "min" else max
                self.best = self.last if self.best is None else choose(self.best, self.last)
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        seconds = 0.0 if self._start is None else time.monotonic() - self._start
        training, samples = seconds - self._validation_seconds, self._own_samples
        speed = round(samples / training, 1) if samples and training > 0 else self._earlier.get("samples_per_second")
        content = {
            "epoch": trainer.current_epoch,
            "max_epochs": None if trainer.max_epochs in (None, -1) else trainer.max_epochs,
            "metric": self.metric,
            "last": self.last if self.last is not None and math.isfinite(self.last) else None,
            "best": self.best,
            "seconds": round(self._earlier.get("seconds", 0.0) + seconds, 3),
            "samples": self.samples or None,
            "samples_per_second": speed,
        }
        with suppress(OSError):  # a run must not fail because of a file that only informs
            write_atomically(self.path, as_json(content), sync=False)
