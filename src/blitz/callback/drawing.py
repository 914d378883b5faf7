"""Base class of the callbacks that draw in TensorBoard: on rank 0, within a share of the process's CPU time."""

import math
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz import plots
from blitz.errors import UserError

TIME_SHARE = 0.02
FIRST_COST = 0.05  # CPU seconds; the assumed cost of a callback's first drawing
DURING_TRAINING = 0.25  # fraction of this time for validations during training; the rest is for the end of the run

_spent: WeakKeyDictionary[Trainer, float] = WeakKeyDictionary()  # seconds, by all drawings of a trainer together


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """Return the writers of the trainer's TensorBoard loggers. Empty on all ranks but the first."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def rows_of(batch: Any, rows: Tensor) -> Any:
    """Return these rows of each tensor of a batch, so that only they are converted to pixels."""
    return type(batch)(part[rows.to(part.device)] for part in batch)


def add_predictions(
    writer: SummaryWriter, tag: str, step: int, classes: Sequence[str], pixels: Tensor, *of_images: Tensor
) -> None:
    """Draw images with their predictions.

    Args:
        pixels: as ``PictureTask.batch_pixels`` returns them.
        of_images: labels, predicted labels, and the probabilities of these, each ``(n,)``.
    """
    labels, predicted, confidences = (part.tolist() for part in of_images)
    found, truths = ([classes[index] for index in part] for part in (predicted, labels))
    writer.add_figure(tag, plots.prediction_grid(pixels, found, confidences, truths), step)


class Sample:
    """Select the first samples of each class, as many of each: the files of a data set may be sorted by class.

    Args:
        size: number of samples.
        classes: number of classes.
    """

    def __init__(self, size: int, classes: int) -> None:
        self.missing = size
        self._of_class = [math.ceil(size / classes)] * classes  # how many are missing

    def select(self, labels: Tensor) -> Tensor:
        """Return the rows of a batch that belong to the sample, int64 ``(m,)``."""
        rows = []
        for row, label in enumerate(labels.tolist() if self.missing else []):
            if self.missing and self._of_class[label]:
                self._of_class[label] -= 1
                self.missing -= 1
                rows.append(row)
        return torch.tensor(rows, dtype=torch.long)


class Drawing(Callback):
    """Draw at the end of an evaluation, from outputs that exist already.

    All drawings of a run together take at most ``time_share`` of the CPU time of the process, in the order of the
    callbacks. Three quarters of it are kept for the evaluations at the end of a run. Thus a short run draws less often,
    or leaves out the last callbacks. With several processes, the samples are those of rank 0.

    A subclass defines ``draw``, and ``collect`` if it needs outputs. Both are called only if there is a TensorBoard
    logger and ``accepts`` returns True.

    Args:
        time_share: None: no limit, so that each validation is drawn.

    Raises:
        UserError: ``time_share`` is out of range.
    """

    only_once = False  # whether to draw only once in a run, as soon as the time allows

    def __init__(self, time_share: float | None = TIME_SHARE) -> None:
        if time_share is not None and not 0 < time_share <= 1:
            raise UserError(f"time_share={time_share}: out of range; expected > 0 and <= 1, or null")
        self.time_share = time_share
        self.drawn = False
        self._cost = FIRST_COST
        self._active = False

    def accepts(self, module: LightningModule) -> bool:
        """Return whether the module has the methods and attributes that ``draw`` needs."""
        raise NotImplementedError

    def begin(self, module: LightningModule) -> None:
        """Prepare an evaluation that may be drawn."""

    def collect(self, module: LightningModule, batch: Any, outputs: Any) -> None:
        """Store the parts of a batch and of the step's outputs that ``draw`` needs."""

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        """Draw an evaluation of ``stage``: ``val`` or ``test``."""
        raise NotImplementedError

    def end(self) -> None:
        """Free the stored parts."""

    # -- hooks --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.drawn = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        if self._active:
            self.collect(pl_module, batch, outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        if self._active:
            self.collect(pl_module, batch, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, "test")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._active = False
        self.end()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn} if self.only_once else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn = state_dict["drawn"]

    # -- time ---------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        wanted = not trainer.sanity_checking and not (self.only_once and self.drawn)
        self._active = wanted and bool(writers(trainer)) and self._is_due(trainer) and self.accepts(module)
        if self._active:
            self.begin(module)

    def _end(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self._active and self._is_due(trainer):  # the callbacks before this one may have used up the time
            began = time.process_time()
            for writer in writers(trainer):
                self.draw(writer, module, stage, trainer.global_step)
            self.drawn = True
            self._cost = time.process_time() - began
            _spent[trainer] = _spent.get(trainer, 0.0) + self._cost
        if self._active:
            self._active = False
            self.end()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.time_share is None:
            return True
        share = self.time_share * (DURING_TRAINING if trainer.state.fn == "fit" else 1.0)
        return _spent.get(trainer, 0.0) + self._cost <= share * time.process_time()
