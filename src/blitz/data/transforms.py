"""Pure functions over images, and the transform from a picture to a network's input. Does not import Lightning."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from torch import Tensor

from blitz.data.checks import check_integer, is_number
from blitz.errors import UserError

MODES = {1: "L", 3: "RGB"}
MAX_SIZE = 16384  # pixels; a single image of this size takes 3 GB as float32


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """Return a picture of any mode as uint8 ``(channels, height, width)``: 1 channel is greyscale, 3 are RGB.

    Transparency is dropped, the orientation from EXIF is applied, and 16-bit greyscale keeps its upper 8 bits.

    Raises:
        UserError: the picture's mode has no fixed black and white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip it to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"mode {image.mode} has no fixed black and white; expected 8 or 16 bits per channel")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    array = np.array(image.convert(MODES[channels]))
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1)


def crop(images: Tensor, size: int) -> Tensor:
    """Scale the shorter side to ``size`` and keep the middle."""
    scale = size / min(images.shape[-2:])
    scaled = [max(size, round(side * scale)) for side in images.shape[-2:]]
    return TF.center_crop(TF.resize(images, scaled, antialias=True), [size, size])


def resize(images: Tensor, size: int) -> Tensor:
    """Stretch both sides to ``size``."""
    return TF.resize(images, [size, size], antialias=True)


def pad(images: Tensor, size: int) -> Tensor:
    """Keep every pixel, centred on black. Scale down only images that are larger than ``size``."""
    scale = min(1.0, size / max(images.shape[-2:]))
    scaled = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return TF.center_crop(TF.resize(images, scaled, antialias=True), [size, size])


FITS: dict[str, Callable[[Tensor, int], Tensor]] = {"crop": crop, "resize": resize, "pad": pad}


def fit(images: Tensor, size: int, method: str) -> Tensor:
    """Bring uint8 ``(..., height, width)`` to ``(..., size, size)`` by a method of ``FITS``.

    Scaling is bilinear, with anti-aliasing. Images that have the size already are returned without a copy.

    Raises:
        UserError: there is no such method.
    """
    if method not in FITS:
        raise UserError(f"data.fit={method}: no such method; expected {', '.join(FITS)}")
    return images if images.shape[-2:] == (size, size) else FITS[method](images, size)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 ``(n, channels, h, w)`` as normalized float32.

    ``mean`` and ``std``, ``(channels, 1, 1)`` or ``(1, 1, 1)``, refer to values in [0, 1].
    The arithmetic equals that of torchvision's ``ToTensor`` and ``Normalize``, to the last bit.

    Raises:
        UserError: the images are not uint8.
    """
    check_uint8(images)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def check_uint8(images: Tensor) -> None:
    """Refuse images that are not uint8: their range is unknown, so dividing them by 255 would be a guess.

    Raises:
        UserError: with the type of the images.
    """
    if images.dtype != torch.uint8:
        name = str(images.dtype).removeprefix("torch.")
        raise UserError(f"the images are {name}; expected uint8, with values from 0 to 255")


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return ascending indices ``(rest, part)``: ``seed`` draws ``fraction`` of each class, rounded, into ``part``."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        part[members[order[: round(fraction * len(members))]]] = True
    return (~part).nonzero().flatten(), part.nonzero().flatten()


class Transform:
    """Convert pictures to a batch for the network, in the same way as the images of the data set.

    Call it with a PIL image, a list of them, or uint8 ``(channels, h, w)`` or ``(n, channels, h, w)``. It returns
    float32 ``(n, channels, image_size, image_size)``.

    Args:
        channels: 1 for greyscale, 3 for RGB.
        image_size: height and width in pixels.
        fit: method that brings an image to this size: ``crop``, ``resize`` or ``pad``.
        mean: of values in [0, 1], per channel or one for all; subtracted from the image.
        std: likewise; the image is divided by it.

    Raises:
        UserError: an argument is not valid.
    """

    def __init__(self, channels: int, image_size: int, fit: str, mean: Sequence[float], std: Sequence[float]) -> None:
        if channels not in MODES:
            raise UserError(f"data.channels={channels}: not a valid number; expected 1 (greyscale) or 3 (RGB)")
        if fit not in FITS:
            raise UserError(f"data.fit={fit}: no such method; expected {', '.join(FITS)}")
        check_integer("image_size", image_size, 1, MAX_SIZE)
        self.channels, self.image_size, self.fit = channels, image_size, fit
        self.mean, self.std = (_per_channel(*named, channels) for named in (("mean", mean), ("std", std)))
        for value in (0, 255):
            pixel = normalize(torch.full((1, channels, 1, 1), value, dtype=torch.uint8), self.mean, self.std)
            if not (self.std > 0).all() or not self.std.isfinite().all() or not pixel.isfinite().all():
                raise UserError(
                    f"data.std={list(std)}, data.mean={list(mean)}: images cannot be normalized with them; "
                    "expected finite numbers, and data.std > 0"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: ``(channels, image_size, image_size)``."""
        return self.channels, self.image_size, self.image_size

    def to_uint8(self, image: Image.Image | Tensor) -> Tensor:
        """Return a PIL image, or uint8 ``(..., channels, h, w)``, with the network's channels and size.

        Raises:
            UserError: a tensor is not uint8, or the image's mode has no fixed black and white.
        """
        pixels = image if isinstance(image, Tensor) else to_tensor(image, self.channels)
        check_uint8(pixels)
        return fit(pixels, self.image_size, self.fit)

    def __call__(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Tensor):
            batch = self.to_uint8(images.reshape(-1, *images.shape[-3:]))
        else:
            batch = torch.stack([self.to_uint8(image) for image in images])
        return normalize(batch, self.mean, self.std)


def _per_channel(name: str, values: Any, channels: int) -> Tensor:
    """Return ``data.mean`` or ``data.std`` as float32 ``(1, 1, 1)`` or ``(channels, 1, 1)``. Refuse other values."""
    expected = "1 number" if channels == 1 else f"1 or {channels} numbers"
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(map(is_number, values)):
        raise UserError(f"data.{name}={values}: not valid; expected a list of {expected}")
    if len(values) not in (1, channels):
        raise UserError(f"data.{name}={list(values)}: not a valid number of values; expected {expected}")
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
