"""Progress in the terminal: one line per epoch, and a bar while an epoch, a validation or a test runs."""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text
from torch import Tensor

from blitz.callback.batch_size import num_samples

REFRESH_SECONDS = 0.1
LOSS_SECONDS = 1.0  # between two readings of the loss, which wait for the device
NARROW, VERY_NARROW = 80, 56  # characters; below them the bar leaves out metrics, and then the speed
WIDTH = 12  # of the column of a metric
FIXED = 9 + 11  # columns of the epoch and of the time


class Progress(Callback):
    """Print the metrics of each epoch, and redraw a bar every ``REFRESH_SECONDS``.

    Lightning's bars redraw every so many steps, which takes longer than a step with small batches. This one only reads
    the clock in a step.

    Args:
        metric: name of a metric that is always shown, like the losses. Others are shown if there is space.
        every_n_steps: also print the mean training loss of each ``every_n_steps`` steps of an epoch, as the tutorial
            does. None: print none.
        compiled: the first step compiles the network; print its seconds, and do not count them as training.
    """

    def __init__(self, every_n_steps: int | None = None, compiled: bool = False, metric: str | None = None) -> None:
        self.metric = metric
        self.every_n_steps = every_n_steps
        self.compiled = compiled
        self.console = Console()
        self.bar: Bar | None = None
        self.epoch_seconds: float | None = None
        self._losses: list[Tensor] = []
        self._columns: list[str] = []
        self._loss: Tensor | None = None
        self._compiling = False
        self._redrawn = self._epoch_start = self._loss_read = 0.0
        self._shown = ""  # metrics beside the bar
        self._tasks: list[TaskID] = []  # lines of the bar: of the epoch, and of a validation within it
        self._train_start: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_start = self._epoch_start = time.monotonic()
        self._compiling = self.compiled
        self._columns = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._epoch_start = time.monotonic()
        self._losses = []
        self._show_task(trainer, f"{trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._compiling:
            self._print_compiled(trainer)
        self._loss = outputs.get("loss")
        self._advance(batch_idx, num_samples(batch) * trainer.world_size, trainer)
        if self.every_n_steps:
            self._losses += (
                [] if self._loss is None else [self._loss]
            )  # kept on the device: a step does not wait for it
            if (batch_idx + 1) % self.every_n_steps == 0 and self._losses:
                self._print_loss(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_seconds = time.monotonic() - self._epoch_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._show_task(trainer, "validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any, **__: Any
    ) -> None:
        self._advance(batch_idx, num_samples(batch) * trainer.world_size)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hide_task()
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop_bar()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_task(trainer, "test", sum(trainer.num_test_batches))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hide_task()
        self._stop_bar()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, trainer.current_epoch)
        self._stop_bar()
        if trainer.is_global_zero and self._train_start is not None:  # None if a resumed run has nothing left to train
            self._print_dim(f"{'':>9}  trained in {time.monotonic() - self._train_start:.1f} s")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _show_task(self, trainer: Trainer, name: str, batches: float) -> None:
        """Add a line to the bar for an epoch or a stage. The line of an epoch replaces that of the previous epoch."""
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        if self.bar is None:
            self.bar = _make_bar(self.console)
            self.bar.start()
        if "/" in name:
            for task in self._tasks:
                self.bar.remove_task(task)
            self._tasks = []
        total = None if math.isinf(batches) else batches  # infinite if the length is unknown
        self._tasks.append(self.bar.add_task(name, total=total, metrics="", samples=0))

    def _hide_task(self) -> None:
        if self.bar is not None and self._tasks:
            self.bar.remove_task(self._tasks.pop())

    def _advance(self, batch_idx: int, samples: int, trainer: Trainer | None = None) -> None:
        """Redraw the bar every ``REFRESH_SECONDS``. ``trainer``: also show the metrics of the training."""
        now = time.monotonic()
        if self.bar is None or not self._tasks or now - self._redrawn <= REFRESH_SECONDS:
            return
        self._redrawn = now
        if trainer is not None and now - self._loss_read > LOSS_SECONDS:
            self._loss_read = now
            self._shown = self._running_metrics(trainer)
        metrics = self._shown if trainer is not None else ""
        self.bar.update(self._tasks[-1], completed=batch_idx + 1, metrics=metrics, samples=samples, refresh=True)

    def _running_metrics(self, trainer: Trainer) -> str:
        """Return the loss of the last step, and the last value of the metric of the run if it has one already."""
        parts = [] if self._loss is None else [f"loss {_format('loss', self._loss)}"]
        if self.metric is not None and self.metric in trainer.callback_metrics:
            parts.append(f"{_title(self.metric)} {_format(self.metric, trainer.callback_metrics[self.metric])}")
        return "  ".join(parts)

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self._tasks = []

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
            metrics = self._metrics(trainer)
            columns = select_columns(metrics, self.metric, self._columns, (self.console.width - FIXED) // WIDTH)
            if columns != self._columns or not self._columns:
                self._columns = columns
                titles = [_title(name).rjust(WIDTH) for name in columns]
                self._print_dim("".join([f"{'epoch':>9}", *titles, f"{'time':>11}"]))
            cells = [_format(name, metrics.get(name)).rjust(WIDTH) for name in columns]
            line = [f"{epoch}/{trainer.max_epochs}".rjust(9), *cells, f"{self.epoch_seconds:9.1f} s"]
            self.console.print("".join(line), markup=False, highlight=False)
        self.epoch_seconds = None

    def _metrics(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return the metrics, and the loss of the last step if the task logs no training loss."""
        metrics = dict(trainer.callback_metrics)
        if self._loss is None or any("loss" in name for name in metrics if not name.startswith("val")):
            return metrics
        return {"loss": self._loss, **metrics}

    def _print_dim(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False)


def select_columns(logged: Iterable[str], metric: str | None, shown: Sequence[str], space: int) -> list[str]:
    """Return the names of the metrics to show, training metrics first.

    Args:
        logged: names of all metrics.
        metric: a metric that is always shown, like the losses.
        shown: names in the previous line, which are shown again.
        space: number of columns that fit into the terminal.
    """
    names = [name for name in logged if name == metric or not (name.endswith("_step") or name.count("/") > 1)]
    first = [name for name in names if name in shown or "loss" in name or name == metric]
    others = [name for name in names if name not in first]
    others.sort(key=lambda name: name.rpartition("/")[2] != (metric or "").rpartition("/")[2])  # of the same kind
    chosen = first + others[: max(0, space - len(first))]
    return sorted(
        chosen, key=lambda name: (not name.startswith(("train", "loss")), not name.startswith("val"), names.index(name))
    )


def _title(name: str) -> str:
    title = name.replace("/", " ")
    return title if len(title) < WIDTH else f"{title[: WIDTH - 2]}…"


def _format(name: str, value: Tensor | None) -> str:
    if value is None:
        return ""
    number = float(value)
    if name.endswith("acc"):
        return f"{number * 100:.2f} %"
    return f"{number:.4f}" if number == 0 or 1e-3 <= abs(number) < 1e5 else f"{number:.3e}"


def _make_bar(console: Console) -> Bar:
    """Return a bar with as many columns as fit into the terminal."""
    columns: list[ProgressColumn] = [TextColumn("{task.description:>9}"), BarColumn(None), MofNCompleteColumn()]
    if console.width >= VERY_NARROW:
        columns.append(_Speed())
    columns.append(TimeRemainingColumn(compact=True))
    if console.width >= NARROW:
        columns.append(TextColumn("{task.fields[metrics]}", style="dim"))
    return Bar(*columns, console=console, transient=True, auto_refresh=False, expand=True)


class _Speed(ProgressColumn):
    """Samples per second, or steps per second if the batches have no size."""

    def render(self, task: Task) -> Text:
        samples = task.fields["samples"]
        speed = (task.speed or 0) * (samples or 1)
        return Text(f"{speed:,.0f} {'samples' if samples else 'steps'}/s", style="progress.data.speed")
