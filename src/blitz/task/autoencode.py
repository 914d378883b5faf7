"""Image reconstruction: loss, metrics, and a picture of the first test images."""

import io
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from blitz.errors import UserError
from blitz.runs.exportable import Exportable
from blitz.runs.report import Report
from blitz.task import image_model
from blitz.task.net_check import output_shape
from blitz.task.pictures import Normalization, to_pixels, unnormalize
from blitz.task.stage_task import Loss, StageOptions, StageTask

Batch = tuple[Tensor, Tensor]
PICTURED = 8  # images
ENLARGED = 3  # pixels of the picture per pixel of an image, in each direction


class Autoencode(StageTask):
    """Mean squared error between images and their reconstructions. The class labels are not used.

    The error is that of the normalized values from the data module. Multiply it by ``data.std`` squared to get the
    error of values in [0, 1]. If the data is augmented, the target is the augmented image.

    The report of a stage has the picture ``reconstructions.png``: the first 8 images above their reconstructions. With
    several processes these are the first images of rank 0.

    Args:
        net: takes images ``(n, channels, size, size)`` and returns reconstructions of the same shape.
        loss: called with reconstructions and images; returns their mean loss. None: the mean squared error.
        transform: from pictures to the batch that ``net`` takes. Training only checks its image size against ``net``.
            It draws the picture of the report, and users of a checkpoint call it.
        options: as in ``StageTask``.

    Raises:
        UserError: the network cannot take images of the transform's size, or returns another shape.
    """

    def __init__(
        self,
        net: nn.Module,
        transform: Normalization | None = None,
        loss: Loss | None = None,
        **options: Unpack[StageOptions],
    ) -> None:
        super().__init__(net, loss or nn.MSELoss(), **options)
        self.transform = transform
        self.pictured: dict[str, list[tuple[Tensor, Tensor]]] = {}
        if transform is not None:
            self.example_input_array = torch.zeros(2, transform.channels, transform.image_size, transform.image_size)
            _check_net(net, self.example_input_array)

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions of normalized images, both ``(n, channels, size, size)``."""
        return self.net(images)

    def predictions_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.net(batch[0]), batch[0]

    def batch_pixels(self, batch: Batch) -> Tensor | None:
        """Return the images of a batch as pictures. None if there is no transform."""
        return None if self.transform is None else unnormalize(batch[0], self.transform)

    def batch_captions(self, batch: Batch) -> list[str]:
        """Return an empty caption for each image: the labels are not used."""
        return [""] * len(batch[0])

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return reconstructions ``(n, channels, size, size)``."""
        return self(batch[0])

    def predict(self, images: Any) -> Tensor:
        """Return reconstructions of images of any size, uint8 ``(n, channels, size, size)``.

        Args:
            images: anything that the transform takes: PIL images, arrays, tensors, paths, or a list of them.
        """
        outputs = image_model.predict(self, self.transform, images)
        assert self.transform is not None
        return to_pixels(outputs, self.transform)

    def prediction_records(self, batch: tuple[Tensor, Tensor | None], outputs: Tensor) -> list[dict[str, Any]]:
        """Return the mean squared error of the normalized values of each image."""
        errors = (outputs.float() - batch[0].float()).square().flatten(1).mean(1)
        return [{"error": error} for error in errors.tolist()]

    def prediction_report(self, batch: tuple[Tensor, Tensor | None], outputs: Tensor) -> Report:
        """Return the picture ``reconstructions.png`` of the first images."""
        if self.transform is None:
            return Report()
        pixels = (to_pixels(part[:PICTURED].float(), self.transform) for part in (batch[0], outputs))
        return Report(files={"reconstructions.png": picture(*pixels)})

    def exportable(self) -> Exportable:
        """Return the network with its normalization: uint8 images in, ``reconstructions`` in [0, 1] out."""
        transform: Any = self.transform
        return image_model.exportable(
            self, transform, "reconstructions", lambda outputs: (outputs * transform.std + transform.mean).clamp(0, 1)
        )

    def on_validation_epoch_start(self) -> None:
        self.pictured["val"] = []

    def on_test_epoch_start(self) -> None:
        self.pictured["test"] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._keep_for_picture("val", batch, super().validation_step(batch, batch_idx))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._keep_for_picture("test", batch, super().test_step(batch, batch_idx))

    def _keep_for_picture(self, stage: str, batch: Batch, reconstructions: Tensor) -> Tensor:
        pairs = self.pictured[stage]
        missing = PICTURED - len(pairs)
        pairs += zip(batch[0][:missing], reconstructions[:missing], strict=True)
        return reconstructions

    def report(self, stage: str) -> Report:
        """Return the loss and, if there is a transform, the picture of the last evaluation of ``stage``."""
        report, pairs = super().report(stage), self.pictured.get(stage)
        if self.transform is None or not pairs:
            return report
        images, reconstructions = (to_pixels(torch.stack(part), self.transform) for part in zip(*pairs, strict=True))
        return replace(report, files={"reconstructions.png": picture(images, reconstructions)})


def picture(images: Tensor, reconstructions: Tensor) -> bytes:
    """Return the bytes of a PNG file: a row of images above a row of their reconstructions.

    Args:
        images: uint8 ``(n, channels, h, w)``, with 1 or 3 channels, like ``reconstructions``.
    """
    rows = torch.cat([images, reconstructions]).repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    grid = make_grid(rows, nrow=len(images), padding=2, pad_value=255)
    file = io.BytesIO()
    to_pil_image(grid).save(file, "PNG")
    return file.getvalue()


def _check_net(net: nn.Module, images: Tensor) -> None:
    if (shape := output_shape(net, images)) != tuple(images.shape):
        raise UserError(
            f"{type(net).__name__} returns {shape} for images {tuple(images.shape)}; expected the shape of the images, "
            "as of model=autoencoder"
        )
