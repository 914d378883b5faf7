"""Pure functions over images. No Lightning, no state."""

from collections.abc import Sequence

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from torch import Tensor

from blitz.errors import UserError

MODES = {1: "L", 3: "RGB"}
FITS = ("crop", "resize", "pad")


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """A picture of any mode as uint8 ``(channels, height, width)``: 1 is greyscale, 3 is RGB.

    Transparency is dropped, a camera's orientation mark is applied, and 16-bit greyscale keeps its upper 8 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip it to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"mode {image.mode} has no black and white of its own: save it with 8 or 16 bits a channel")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    array = np.array(image.convert(MODES[channels]))
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1)


def fit(images: Tensor, size: int, how: str) -> Tensor:
    """Bring uint8 ``(..., height, width)`` to ``(..., size, size)``.

    ``crop`` scales the shorter side and keeps the middle, ``resize`` stretches, ``pad`` keeps every pixel, centred on
    black, and scales down only what is larger than ``size``. Scaling is bilinear, with anti-aliasing.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    if how == "resize":
        return TF.resize(images, [size, size], antialias=True)
    if how == "crop":
        scale = size / min(height, width)
        scaled = [max(size, round(height * scale)), max(size, round(width * scale))]
        return TF.center_crop(TF.resize(images, scaled, antialias=True), [size, size])
    if how == "pad":
        scale = min(1.0, size / max(height, width))
        scaled = [max(1, round(height * scale)), max(1, round(width * scale))]
        return TF.center_crop(TF.resize(images, scaled, antialias=True), [size, size])
    raise UserError(f"fit={how} is not known; there are {', '.join(FITS)}")


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 ``(n, channels, h, w)`` to float32; ``mean`` and ``std``, ``(channels, 1, 1)``, are of values in [0, 1].

    The arithmetic is that of torchvision's ``ToTensor`` and ``Normalize``, to the last bit.
    """
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Ascending indices ``(rest, part)``: ``part`` holds ``fraction`` of each class (rounded), drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        part[members[order[: round(fraction * len(members))]]] = True
    return (~part).nonzero().flatten(), part.nonzero().flatten()


class Transform:
    """Pictures as they come to the batch that a network takes: what the data set's own images went through.

    Called with a PIL image, a list of them, or uint8 ``(channels, h, w)`` or ``(n, channels, h, w)``; gives float32
    ``(n, channels, image_size, image_size)``.
    """

    def __init__(self, channels: int, image_size: int, fit: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.channels, self.image_size, self.fit = channels, image_size, fit
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __call__(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Tensor):
            batch = fit(images.reshape(-1, *images.shape[-3:]), self.image_size, self.fit)
        else:
            batch = torch.stack([fit(to_tensor(image, self.channels), self.image_size, self.fit) for image in images])
        return normalize(batch, self.mean, self.std)
