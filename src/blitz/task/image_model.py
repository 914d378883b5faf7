"""The network of a task together with its transform: predictions for images, and the module to export."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from blitz.errors import UserError
from blitz.runs.exportable import Exportable
from blitz.task.pictures import to_pixels

BATCH_SIZE = 128  # images that are decoded and predicted together


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients, and restore the mode of each of its parts."""
    training = {part: part.training for part in module.modules()}
    try:
        with torch.inference_mode():
            module.eval()
            yield
    finally:
        for part, mode in training.items():
            part.training = mode


def predict(task: LightningModule, transform: Any, images: Any) -> Tensor:
    """Return what ``task.predict_step`` returns for images of any size, as float32 on the CPU.

    Args:
        images: anything that ``transform`` takes. Lists and arrays of images are processed in parts.

    Raises:
        UserError: there is no transform, or it refuses an image.
    """
    check_transform(task, transform)
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    parts = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)] if several else []
    with evaluation_mode(task):
        outputs = [
            task.predict_step((transform(part).to(task.device), None), index).float().cpu()
            for index, part in enumerate(parts or [images])
        ]
    return torch.cat(outputs)


def exportable(
    task: LightningModule, transform: Any, output: str, finish: Callable[[Tensor], Tensor], **metadata: Any
) -> Exportable:
    """Return a module from uint8 images ``(n, channels, image_size, image_size)`` to ``output``.

    Args:
        finish: returns the output for the result of ``task.net``.
        metadata: added to the description of the transform.

    Raises:
        UserError: there is no transform, or it has no mean and no standard deviation.
    """
    check_transform(task, transform)
    for name in ("channels", "image_size", "mean", "std"):
        if not hasattr(transform, name):
            raise UserError(
                f"task.transform: {type(transform).__name__} has no {name}; expected a transform with this attribute"
            )
    network: Any = task.net

    def original(batch: Any) -> Tensor:
        with evaluation_mode(task):
            return finish(network(batch[0]))

    described = {
        "channels": transform.channels,
        "image_size": transform.image_size,
        "fit": getattr(transform, "fit", None),
        "mean": transform.mean.flatten().tolist(),
        "std": transform.std.flatten().tolist(),
    }
    return Exportable(
        module=ImageModel(network, transform, finish).eval(),
        example=torch.zeros(2, transform.channels, transform.image_size, transform.image_size, dtype=torch.uint8),
        input="images",
        output=output,
        raw=lambda batch: to_pixels(batch[0], transform),
        original=original,
        metadata=described | metadata,
    )


class ImageModel(nn.Module):
    """Transform, network, and the last function, in one module without a part that only training needs."""

    def __init__(self, net: nn.Module, transform: Any, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.transform = transform
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.net(self.transform(images)))


def check_transform(task: LightningModule, transform: Any) -> None:
    if transform is None:
        raise UserError(
            f"task.transform=null: {type(task).__name__} cannot prepare images without it; "
            "expected a checkpoint of a task with a transform"
        )
