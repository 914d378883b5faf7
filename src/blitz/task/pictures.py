"""From the normalized images of a batch back to pictures."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Normalization(Protocol):
    """From pictures to the batch that a network takes: float32 ``(n, channels, image_size, image_size)``.

    ``mean`` and ``std``, ``(channels, 1, 1)`` or ``(1, 1, 1)``, refer to values in [0, 1].
    """

    channels: int
    image_size: int
    mean: Tensor
    std: Tensor

    def __call__(self, images: Any) -> Tensor: ...


def unnormalize(images: Tensor, transform: Normalization) -> Tensor:
    """Return normalized ``(n, channels, h, w)`` as float32 in [0, 1], on the CPU. Values outside are clipped."""
    return (images.detach().float().cpu() * transform.std + transform.mean).clamp(0, 1)


def to_pixels(images: Tensor, transform: Normalization) -> Tensor:
    """Return normalized ``(n, channels, h, w)`` as uint8, on the CPU. Values outside of [0, 255] are clipped."""
    return unnormalize(images, transform).mul(255).round().to(torch.uint8)
