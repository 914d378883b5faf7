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
        how: none, raise, kill, segfault, hang or nan; ``slow`` takes 0.2 s for each step, in every attempt.
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
            case "nan":
                with torch.no_grad():
                    next(pl_module.parameters()).fill_(torch.nan)
