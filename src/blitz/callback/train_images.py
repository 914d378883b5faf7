"""Training images as the network sees them."""

from collections.abc import Sequence
from typing import Any, cast

from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blitz import plots
from blitz.callback.drawing import TIME_SHARE, Drawing, writers
from blitz.runs.protocols import PictureTask


class TrainImages(Drawing):
    """Draw the first training batch with its labels: augmented, and with the normalization undone.

    Args:
        time_share: as in ``Drawing``.
        images: largest number of images.
    """

    only_once = True

    def __init__(self, time_share: float | None = TIME_SHARE, images: int = 32) -> None:
        super().__init__(time_share)
        self.images = images
        self._kept: tuple[Tensor, Sequence[str], int] | None = None  # pixels, captions and step

    def accepts(self, module: LightningModule) -> bool:
        return self._kept is not None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.drawn or self._kept is not None or not writers(trainer) or not isinstance(pl_module, PictureTask):
            return
        pixels = cast("PictureTask", pl_module).batch_pixels(batch)
        if pixels is not None and len(pixels):
            captions = pl_module.batch_captions(batch)[: self.images]
            self._kept = pixels[: self.images].clone(), captions, trainer.global_step

    def draw(self, writer: SummaryWriter, module: LightningModule, stage: str, step: int) -> None:
        assert self._kept is not None
        pixels, captions, step = self._kept
        writer.add_figure("pictures/train_images", plots.image_grid(pixels, captions), step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.drawn:
            self._kept = None
