"""Progress in the terminal: one line per epoch, and a bar while an epoch runs."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text
from torch import Tensor

REFRESH_SECONDS = 0.1
COLUMNS = {"train/loss": "train loss", "train/acc": "train acc", "val/loss": "val loss", "val/acc": "val acc"}


class Progress(Callback):
    """Print the metrics of each epoch, and redraw a bar every ``REFRESH_SECONDS``.

    Lightning's bars redraw every so many steps, which takes longer than a step with small batches. This one only reads
    the clock in a step.

    Args:
        every_n_steps: also print the mean training loss of each ``every_n_steps`` steps of an epoch, as the tutorial
            does. None: print none.
        compiled: the first step compiles the network; print its seconds, and do not count them as training.
    """

    def __init__(self, every_n_steps: int | None = None, compiled: bool = False) -> None:
        self.every_n_steps = every_n_steps
        self.compiled = compiled
        self.console = Console()
        self.bar: Bar | None = None
        self.epoch_seconds: float | None = None
        self._losses: list[Tensor] = []
        self._compiling = False
        self._redrawn = self._epoch_start = 0.0
        self._train_start: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_start = self._epoch_start = time.monotonic()
        self._compiling = self.compiled
        if trainer.is_global_zero:
            titles = [title for key, title in COLUMNS.items() if key.startswith("train") or trainer.val_dataloaders]
            self._print_dim(f"{'epoch':>9}" + "".join(f"{title:>12}" for title in titles) + f"{'time':>11}")
            if self.console.is_terminal:
                self.bar = _make_bar(self.console)
                self.bar.start()
                self._add_task(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._epoch_start = time.monotonic()
        self._losses = []
        if self.bar is not None:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self._add_task(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._compiling:
            self._print_compiled(trainer)
        if self.bar is not None and time.monotonic() - self._redrawn > REFRESH_SECONDS:
            self.bar.update(self.bar.task_ids[-1], completed=batch_idx + 1, refresh=True)
            self._redrawn = time.monotonic()
        if self.every_n_steps:
            self._losses.append(outputs["loss"])  # kept on the device: a step does not wait for it
            if (batch_idx + 1) % self.every_n_steps == 0:
                self._print_loss(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_seconds = time.monotonic() - self._epoch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._stop_bar()
        if trainer.is_global_zero and self._train_start is not None:  # None if a resumed run has nothing left to train
            self._print_dim(f"{'':>9}  trained in {time.monotonic() - self._train_start:.1f} s")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _add_task(self, trainer: Trainer) -> None:
        assert self.bar is not None
        self.bar.add_task(f"{trainer.current_epoch + 1}/{trainer.max_epochs}", total=trainer.num_training_batches)

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print_compiled(self, trainer: Trainer) -> None:
        self._compiling = False
        if trainer.is_global_zero:
            self._print_dim(f"{'':>9}  compiled in {time.monotonic() - self._epoch_start:.1f} s")
        self._train_start = self._epoch_start = time.monotonic()

    def _print_loss(self, trainer: Trainer, batch_idx: int) -> None:
        loss = trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self._losses = []
        if trainer.is_global_zero:
            line = f"[{trainer.current_epoch + 1}, {batch_idx + 1:5}] loss: {loss:.3f}"
            self.console.print(line, markup=False, highlight=False)

    def _print_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Print the metrics of the epoch before ``epoch``. Lightning has them only after ``on_train_epoch_end``."""
        if self.epoch_seconds is not None and trainer.is_global_zero:
            metrics = {key: float(trainer.callback_metrics[key]) for key in COLUMNS if key in trainer.callback_metrics}
            cells = [_format(key, value).rjust(12) for key, value in metrics.items()]
            line = [f"{epoch}/{trainer.max_epochs}".rjust(9), *cells, f"{self.epoch_seconds:9.1f} s"]
            self.console.print("".join(line), highlight=False)
        self.epoch_seconds = None

    def _print_dim(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False)


def _format(key: str, value: float) -> str:
    return f"{value * 100:.2f} %" if key.endswith("acc") else f"{value:.4f}"


def _make_bar(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
    )


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} steps/s", style="progress.data.speed")
