"""A callback that makes the first attempt of a job fail in a given way, and lets the next one pass."""

import os
import signal
import time
from pathlib import Path

import torch
from lightning import Callback


class Sabotage(Callback):
    """Fail at the third step of the run, unless the run directory holds a file that says that it failed already.

    Args:
        how: none, raise, kill, segfault, hang or diverge; ``slow`` takes 0.2 s for each step, in every attempt.
        directory: the run directory.
    """

    def __init__(self, how, directory):
        self.how = how
        self.marker = Path(directory) / "sabotaged"

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.how == "slow":
            time.sleep(0.2)
        if trainer.global_step != 2 or self.how == "none" or self.marker.exists():
            return
        self.marker.write_text(str(os.getpid()))
        match self.how:
            case "raise":
                raise RuntimeError("sabotaged")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)
            case "diverge":
                with torch.no_grad():
                    next(pl_module.parameters()).fill_(torch.nan)


class Clock:
    """A clock for the launcher that runs a thousand times as fast once only the hanging job is left in ``sweep_dir``.

    Then the timeout cannot stop another job, however slow the machine is.
    """

    def __init__(self, sweep_dir, jobs):
        self.sweep_dir, self.jobs, self.start = Path(sweep_dir), jobs, None

    def monotonic(self):
        now = time.monotonic()
        ended = [*self.sweep_dir.glob("*/metrics.json"), *self.sweep_dir.glob("*/status.json")]
        if self.start is None and len({path.parent for path in ended}) == self.jobs - 1:
            self.start = now
        return now + 1000 * (now - self.start if self.start else 0)
