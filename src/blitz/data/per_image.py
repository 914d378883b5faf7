"""Augmentation with torchvision's transforms, one image at a time.

A transform draws its parameters from the global random generators in each call. ``PerImage`` seeds these generators
for each image, calls the transform, and restores the generators afterwards.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blitz.data.seeding import generator
from blitz.errors import UserError
from blitz.process import random_state


class PerImage:
    """Apply a transform of ``torchvision.transforms.v2``, or any other function of one image, to each image.

    The result depends only on seed, epoch and image, and not on the batch or the process. Augmentations of a whole
    batch, such as ``Flip`` and ``Translate``, are many times faster: docs/speed.md has a measurement.

    Images on a GPU are transformed there. A transform that draws noise for each pixel draws different noise on a GPU
    than on the CPU.

    Args:
        transform: takes an image, uint8 ``(channels, size, size)``, and returns one of the same type and shape. It may
            draw from the global random generators of torch, NumPy and Python.

    Attributes:
        key: config key of the augmentation, for error messages. ``ImageDataModule`` sets it.
        in_workers: whether worker processes, if there are any, apply this augmentation and all before it.
    """

    key = "data.augment"
    in_workers = True

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        if not callable(transform):
            raise UserError(
                f"{self.key}: transform={transform} cannot be called; expected one of torchvision.transforms.v2"
            )
        self.transform = transform

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        """Return a seed for each image, int64 ``(n,)``."""
        return torch.randint(0, 2**62, (n,), generator=generator(seed, epoch))

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return the images, each transformed with its seed.

        Raises:
            UserError: the transform failed, or did not return an image of the same type and shape.
        """
        augmented = torch.empty_like(images)
        with random_state.preserved():
            for row, seed in enumerate(draws.tolist()):
                _seed_generators(seed, images.device)
                augmented[row] = self._transformed(images[row])
        return augmented

    def _transformed(self, image: Tensor) -> Tensor:
        given = _describe(image)
        try:
            result = self.transform(image.clone())  # a transform may work in place, and the image belongs to the split
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{self.key}: it fails ({reason}); expected a transform of {given}") from error
        if (returned := _describe(result)) != given:
            raise UserError(f"{self.key}: it returns {returned}; expected {given}, like its input")
        return result


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of Python, NumPy and torch, including the generator of ``device``."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator, which a transform may draw from
    # torch.manual_seed would also seed every other device, which takes far longer.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _describe(image: Any) -> str:
    if not isinstance(image, Tensor):
        return f"an object of type {type(image).__name__}"
    return f"{str(image.dtype).removeprefix('torch.')} {'x'.join(map(str, image.shape)) or 'scalar'}"
