"""The most confident mistakes of an evaluation."""

from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.drawing import TIME_SHARE, Drawing, add_predictions, rows_of
from blitz.runs.protocols import ClassifierTask, PictureTask


class Mistakes(Drawing):
    """Draw the wrongly classified images whose predicted class has the highest probability, the highest first.

    Args:
        time_share: as in ``Drawing``.
        images: largest number of images.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, images: int = 16) -> None:
        super().__init__(time_share)
        self.images = images
        self._worst: list[Tensor] = []  # pixels, labels, predicted labels and confidences

    def accepts(self, module: LightningModule) -> bool:
        return isinstance(module, ClassifierTask) and isinstance(module, PictureTask)

    def begin(self, module: LightningModule) -> None:
        self._worst = []

    def collect(self, module: LightningModule, batch: Any, outputs: Any) -> None:
        labels, probabilities = cast("ClassifierTask", module).batch_predictions(batch, outputs)
        confidences, predicted = probabilities.max(1)
        wrong = (predicted != labels).nonzero().flatten()
        wrong = wrong[confidences[wrong].argsort(descending=True, stable=True)[: self.images]]
        pixels = cast("PictureTask", module).batch_pixels(rows_of(batch, wrong)) if len(wrong) else None
        if pixels is None:
            return
        found = [pixels, labels[wrong], predicted[wrong], confidences[wrong]]
        if self._worst:
            found = [torch.cat(pair) for pair in zip(self._worst, found, strict=True)]
        best = found[3].argsort(descending=True, stable=True)[: self.images]
        self._worst = [part[best] for part in found]

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        if self._worst:
            classes = cast("ClassifierTask", module).classes
            add_predictions(writer, f"pictures/mistakes_{stage}", step, classes, *self._worst)

    def end(self) -> None:
        self._worst = []
