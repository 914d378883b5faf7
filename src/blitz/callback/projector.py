"""Embeddings of test images for TensorBoard's projector."""

import io
from contextlib import ExitStack, redirect_stdout
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.drawing import TIME_SHARE, Drawing, Sample, rows_of
from blitz.runs.protocols import ClassifierTask, EmbeddingTask, PictureTask

SPRITE = 8192  # pixels; the largest side of a picture that TensorBoard can show


class Projector(Drawing):
    """Write the inputs of a task's last layer at the end of a run, with the class and the picture of each sample.

    A forward hook collects them during the evaluation. Nothing is written for a compiled network or with ``device=dp``.

    Args:
        time_share: as in ``Drawing``.
        samples: largest number of samples, the first ones of each class.
    """

    def __init__(self, time_share: float | None = TIME_SHARE, samples: int = 200) -> None:
        super().__init__(time_share)
        self.samples = samples
        self._until_end = ExitStack()
        self._inputs: list[Tensor] = []  # of the layer, for the current batch
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def accepts(self, module: LightningModule) -> bool:
        offers = isinstance(module, ClassifierTask) and isinstance(module, PictureTask)
        ends = module.trainer.state.fn != "fit"
        return ends and offers and isinstance(module, EmbeddingTask) and module.head is not None

    def begin(self, module: LightningModule) -> None:
        self._parts, self._inputs = [], []
        self._sample = Sample(self.samples, len(cast("ClassifierTask", module).classes))
        head = cast("EmbeddingTask", module).head
        assert head is not None
        handle = head.register_forward_pre_hook(lambda _, inputs: self._inputs.append(inputs[0]))
        self._until_end.callback(handle.remove)

    def collect(self, module: LightningModule, batch: Any, outputs: Any) -> None:
        inputs, self._inputs = self._inputs, []
        labels, _ = cast("ClassifierTask", module).batch_predictions(batch, outputs)
        if not self._sample.missing or len(inputs) != 1 or inputs[0].ndim != 2 or len(inputs[0]) != len(labels):
            self._until_end.close()
            return
        rows = self._sample.select(labels)
        pixels = cast("PictureTask", module).batch_pixels(rows_of(batch, rows))
        if pixels is not None:
            embeddings = inputs[0].detach()[rows.to(inputs[0].device)].float().cpu()
            self._parts.append((embeddings, labels[rows], pixels))

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        if not self._parts:
            return
        embeddings, labels, pixels = (torch.cat(part) for part in zip(*self._parts, strict=True))
        names = [cast("ClassifierTask", module).classes[label] for label in labels.tolist()]
        with redirect_stdout(io.StringIO()):  # torch prints a line if it replaces the files of an interrupted test
            writer.add_embedding(embeddings, names, _sprites(pixels), tag=stage)

    def end(self) -> None:
        self._until_end.close()
        self._parts, self._inputs = [], []


def _sprites(pixels: Tensor) -> Tensor:
    """Return square pictures that fit into one sprite together."""
    side = min(max(pixels.shape[2:]), SPRITE // (int(len(pixels) ** 0.5) + 1))
    return torch.nn.functional.interpolate(pixels, (side, side)) if tuple(pixels.shape[2:]) != (side, side) else pixels
