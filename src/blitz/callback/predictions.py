"""Predictions for some images of each class, which are the same images in each evaluation."""

from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.drawing import TIME_SHARE, Drawing, Sample, add_predictions, rows_of
from blitz.runs.protocols import ClassifierTask, PictureTask


class Predictions(Drawing):
    """Draw images with their predicted class, its probability and the true class, green if right and red if wrong.

    Args:
        time_share: as in ``Drawing``.
        images: number of images, the first ones of each class.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, images: int = 16) -> None:
        super().__init__(time_share)
        self.images = images
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def accepts(self, module: LightningModule) -> bool:
        return isinstance(module, ClassifierTask) and isinstance(module, PictureTask)

    def begin(self, module: LightningModule) -> None:
        self._parts = []
        self._sample = Sample(self.images, len(cast("ClassifierTask", module).classes))

    def collect(self, module: LightningModule, batch: Any, outputs: Any) -> None:
        if not self._sample.missing:
            return
        labels, probabilities = cast("ClassifierTask", module).batch_predictions(batch, outputs)
        rows = self._sample.select(labels)
        pixels = cast("PictureTask", module).batch_pixels(rows_of(batch, rows))
        if pixels is not None:
            self._parts.append((pixels, labels[rows], probabilities[rows]))

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        if not self._parts:
            return
        pixels, labels, probabilities = (torch.cat(part) for part in zip(*self._parts, strict=True))
        if len(labels):
            confidences, predicted = probabilities.max(1)
            classes = cast("ClassifierTask", module).classes
            tag = f"pictures/predictions_{stage}"
            add_predictions(writer, tag, step, classes, pixels, labels, predicted, confidences)

    def end(self) -> None:
        self._parts = []
