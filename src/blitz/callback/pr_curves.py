"""Precision and recall by threshold, for each class."""

from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.drawing import TIME_SHARE, Drawing
from blitz.runs.protocols import ClassifierTask


class PRCurves(Drawing):
    """Write a precision-recall curve for each class: this class against all others.

    Args:
        time_share: as in ``Drawing``.
        samples: largest number of samples, the first ones of the evaluation.
        max_classes: nothing is written if there are more classes.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, samples: int = 50_000, max_classes: int = 100) -> None:
        super().__init__(time_share)
        self.samples = samples
        self.max_classes = max_classes
        self._parts: list[tuple[Tensor, Tensor]] = []

    def accepts(self, module: LightningModule) -> bool:
        return isinstance(module, ClassifierTask) and len(module.classes) <= self.max_classes

    def begin(self, module: LightningModule) -> None:
        self._parts = []

    def collect(self, module: LightningModule, batch: Any, outputs: Any) -> None:
        missing = self.samples - sum(len(labels) for labels, _ in self._parts)
        if missing > 0:
            labels, probabilities = cast("ClassifierTask", module).batch_predictions(batch, outputs)
            self._parts.append((labels[:missing], probabilities[:missing]))

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        if not self._parts:
            return
        labels, probabilities = (torch.cat(part) for part in zip(*self._parts, strict=True))
        for index, name in enumerate(cast("ClassifierTask", module).classes):
            writer.add_pr_curve(f"{stage}/{name}", labels == index, probabilities[:, index], step)

    def end(self) -> None:
        self._parts = []
