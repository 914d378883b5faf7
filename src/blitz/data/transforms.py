"""Pure functions over images, and the transform from a picture to a network's input. Does not import Lightning."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from blitz.config.paths import as_text
from blitz.data.checks import check_integer, is_number
from blitz.errors import UserError

Picture = Image.Image | Tensor | NDArray[np.uint8] | str | os.PathLike[str]

EXTENSIONS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)
MODES = {1: "L", 3: "RGB"}
MAX_SIZE = 16384  # pixels; a single image of this size takes 3 GB as float32

# Every image that Pillow can read is used, so its warnings about metadata or sizes help nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def errors_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error of a decoder into a UserError that names the file. Pillow's decoders raise more than OSError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{as_text(path)}: cannot be read as an image ({reason})") from error


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


def array_to_tensor(array: NDArray[np.uint8], channels: int) -> Tensor:
    """Return an array ``(h, w)``, ``(h, w, c)`` or ``(n, h, w, c)`` as uint8 ``(n, channels, h, w)``.

    One value per pixel is greyscale, three are RGB, four are RGB and transparency.

    Raises:
        UserError: the array has another type or shape.
    """
    pixels = array[..., None] if array.ndim == 2 else array
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if array.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise UserError(
            f"images: an array of {array.dtype} {array.shape}; expected uint8 (height, width), (height, width, 3) "
            "or (n, height, width, 3)"
        )
    pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels)
    return torch.stack([to_tensor(picture, channels) for picture in pictures])


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

    Call it with an image or a list of images of any size. An image is one of these:

    - a PIL image of any mode, or the path of a file;
    - an array of uint8, ``(h, w)`` for greyscale, ``(h, w, 3)`` for RGB, or ``(n, h, w, 3)`` for several;
    - a tensor of uint8, ``(channels, h, w)``, or ``(n, channels, h, w)`` for several.

    It returns float32 ``(n, channels, image_size, image_size)`` on the CPU, or on the device of the tensor.

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

    @property
    def extensions(self) -> frozenset[str]:
        """Endings of the files that ``read`` may be able to decode, in lower case, with the dot."""
        return EXTENSIONS

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Return the image in a file as uint8 ``(channels, image_size, image_size)``.

        Raises:
            UserError: it cannot be read as an image; the message names the file.
        """
        with errors_name(path):
            if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 opening a FIFO would block
                raise ValueError("not a regular file")
            with Image.open(path) as image:
                return self.to_uint8(image)

    def to_uint8(self, image: Image.Image | Tensor) -> Tensor:
        """Return a PIL image, or uint8 ``(..., channels, h, w)``, with the network's channels and size.

        Raises:
            UserError: a tensor is not uint8, or the image's mode has no fixed black and white.
        """
        pixels = image if isinstance(image, Tensor) else to_tensor(image, self.channels)
        check_uint8(pixels)
        return fit(pixels, self.image_size, self.fit)

    def to_batch(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Return pictures as uint8 ``(n, channels, image_size, image_size)``, without normalizing them."""
        if isinstance(images, str | os.PathLike):
            return self.read(images)[None]
        if isinstance(images, Image.Image):
            return self.to_uint8(images)[None]
        if isinstance(images, np.ndarray):
            return self.to_uint8(array_to_tensor(images, self.channels))
        if isinstance(images, Tensor):
            self._check_tensor(images)
            return self.to_uint8(images.reshape(-1, *images.shape[-3:]))
        if not isinstance(images, Sequence) or not images:
            found = "an empty list" if isinstance(images, Sequence) else f"an object of type {type(images).__name__}"
            raise UserError(f"images: {found}; expected PIL images, arrays, tensors or paths")
        return torch.cat([self.to_batch(image) for image in images])

    def _check_tensor(self, images: Tensor) -> None:
        check_uint8(images)
        if images.ndim not in (3, 4) or images.shape[-3] != self.channels or 0 in images.shape:
            raise UserError(
                f"images: a tensor of the shape {tuple(images.shape)}; expected ({self.channels}, height, width) "
                f"or (n, {self.channels}, height, width)"
            )

    def __call__(self, images: Picture | Sequence[Picture]) -> Tensor:
        batch = self.to_batch(images)
        return normalize(batch, self.mean.to(batch.device), self.std.to(batch.device))


def _per_channel(name: str, values: Any, channels: int) -> Tensor:
    """Return ``data.mean`` or ``data.std`` as float32 ``(1, 1, 1)`` or ``(channels, 1, 1)``. Refuse other values."""
    expected = "1 number" if channels == 1 else f"1 or {channels} numbers"
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(map(is_number, values)):
        raise UserError(f"data.{name}={values}: not valid; expected a list of {expected}")
    if len(values) not in (1, channels):
        raise UserError(f"data.{name}={list(values)}: not a valid number of values; expected {expected}")
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
