"""What the terminal shows while a model trains: one line an epoch, and a bar that costs a clock look a step."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.text import Text
from torch import Tensor

REFRESH_SECONDS = 0.1
COLUMNS = {"train/loss": "train loss", "train/acc": "train acc", "val/loss": "val loss", "val/acc": "val acc"}


class Progress(Callback):
    """Lightning's bars redraw by the step, which at small batches takes longer than the step; this one redraws by time.

    Args:
        every_n_steps: also print the mean training loss of each so many steps of an epoch, as the tutorial does.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        self.every_n_steps = every_n_steps
        self.console = Console()
        self.bar: Bar | None = None
        self.epoch_seconds: float | None = None
        self._losses: list[Tensor] = []
        self._compiles = False
        self._drawn = self._began = self._trained = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = self._began = time.monotonic()
        self._compiles = any(module._compiled_call_impl is not None for module in pl_module.modules())
        if trainer.is_global_zero:
            titles = [title for key, title in COLUMNS.items() if key.startswith("train") or trainer.val_dataloaders]
            self.console.print(
                f"{'epoch':>9}" + "".join(f"{title:>12}" for title in titles) + f"{'time':>11}", style="dim"
            )
        if trainer.is_global_zero and self.console.is_terminal:
            self.bar = Bar(
                TextColumn("{task.description:>9}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Speed(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
                auto_refresh=False,
            )
            self.bar.start()
            self._add_task(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._began = time.monotonic()
        self._losses = []
        if self.bar is not None:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self._add_task(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._compiles and trainer.is_global_zero:
            self._compiles = False
            seconds = time.monotonic() - self._began
            self.console.print(f"{'':>9}  compiled in {seconds:.1f} s", style="dim", highlight=False)
            self._trained = self._began = time.monotonic()
        if self.bar is not None and time.monotonic() - self._drawn > REFRESH_SECONDS:
            self.bar.update(self.bar.task_ids[-1], completed=batch_idx + 1, refresh=True)
            self._drawn = time.monotonic()
        if self.every_n_steps:
            self._losses.append(outputs["loss"])  # on the device: nothing waits for it here
            if (batch_idx + 1) % self.every_n_steps == 0:
                loss = trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
                self._losses = []
                if trainer.is_global_zero:
                    line = f"[{trainer.current_epoch + 1}, {batch_idx + 1:5}] loss: {loss:.3f}"
                    self.console.print(line, markup=False, highlight=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_seconds = time.monotonic() - self._began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._stop()
        if trainer.is_global_zero:
            self.console.print(
                f"{'':>9}  trained in {time.monotonic() - self._trained:.1f} s", style="dim", highlight=False
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _add_task(self, trainer: Trainer) -> None:
        assert self.bar is not None
        self.bar.add_task(f"{trainer.current_epoch + 1}/{trainer.max_epochs}", total=trainer.num_training_batches)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print_epoch(self, trainer: Trainer, epoch: int) -> None:
        """The line of the epoch before ``epoch``: only now has Lightning collected all of its figures."""
        if self.epoch_seconds is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        cells = [f"{epoch}/{trainer.max_epochs}".rjust(9)]
        for key in COLUMNS:
            if key in metrics:
                value = float(metrics[key])
                cells.append((f"{value * 100:.2f} %" if key.endswith("acc") else f"{value:.4f}").rjust(12))
        cells.append(f"{self.epoch_seconds:9.1f} s")
        self.console.print("".join(cells), highlight=False)
        self.epoch_seconds = None


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} steps/s", style="progress.data.speed")
