"""Augmentations: pure functions of a whole batch on its device, with random parameters for each image.

torchvision's transforms draw one set of parameters per call. Calling them image by image would take longer than the
training.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from blitz.data.checks import check_integer
from blitz.data.seeding import generator
from blitz.errors import UserError


class Augmentation(Protocol):
    """Draw and apply separately, so that the result for an image depends neither on its batch nor on the process."""

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        """Return random parameters on the CPU: one row for each of the split's ``n`` images, in the split's order."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return uint8 ``(b, channels, size, size)``, changed by ``b`` rows of parameters."""


class Flip:
    """Flip half of the images horizontally.

    ``alternating`` draws only for the first epoch, and then flips every image in every other epoch, which learns faster
    (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.3).
    """

    def __init__(self, mode: Literal["random", "alternating"] = "random") -> None:
        if mode not in ("random", "alternating"):
            raise UserError(f"data.augment.flip.mode={mode}: not a valid mode; expected random, alternating")
        self.mode = mode

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        if self.mode == "random":
            return torch.rand(n, generator=generator(seed, epoch)) < 0.5
        first = torch.rand(n, generator=generator(seed)) < 0.5
        return first ^ bool(epoch % 2)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        # Selecting from both versions is three times as fast as torch.where, which goes pixel by pixel.
        n = len(images)
        return torch.cat([images, images.flip(3)]).index_select(0, torch.arange(n, device=images.device) + n * draws)


class Translate:
    """Shift by up to ``pixels`` in each direction, and mirror the image at its border."""

    def __init__(self, pixels: int = 2) -> None:
        check_integer("augment.translate.pixels", pixels, 1)
        self.pixels = pixels

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        return torch.randint(0, 2 * self.pixels + 1, (n, 2), generator=generator(seed, epoch))

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        n, channels, _, size = images.shape
        if self.pixels >= size:
            raise UserError(
                f"data.augment.translate.pixels={self.pixels}: images of {size}x{size} are smaller; "
                f"expected a whole number from 1 to {size - 1}"
            )
        positions = torch.arange(-self.pixels, size - self.pixels, device=images.device)
        rows, columns = (_mirror(positions + draw[:, None], size) for draw in draws.unbind(1))
        # One gather by flat index is four times as fast as padding all images and cutting a window out of each.
        flat = (rows[:, :, None] * size + columns[:, None, :]).reshape(n, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, flat).reshape(images.shape)


def _mirror(positions: Tensor, size: int) -> Tensor:
    """Reflect indices below 0 and from ``size`` on at the border pixel, which is not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


class Cutout:
    """Cover a square of ``size`` pixels, centred anywhere in the image, with grey (DeVries and Taylor, 2017)."""

    def __init__(self, size: int = 8) -> None:
        check_integer("augment.cutout.size", size, 1)
        self.size = size

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        return torch.rand(n, 2, generator=generator(seed, epoch))

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        side = images.shape[-1]
        start = (draws * side).long() - self.size // 2
        positions = torch.arange(side, device=images.device)
        inside = ((positions >= s[:, None]) & (positions < s[:, None] + self.size) for s in start.unbind(1))
        # Bytes of ones and zeros: masked_fill goes pixel by pixel and takes two to three times as long.
        rows, columns = (mask.to(torch.uint8).neg() for mask in inside)
        square = rows[:, None, :, None] & columns[:, None, None, :]
        return (images & ~square) | (square & 128)
