"""Batches from a split that lives on the device: a batch is an index; no worker, queue or copy stands between."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from blitz.data._transforms import normalize


class Split(NamedTuple):
    """``images``: uint8 ``(n, channels, size, size)``; ``labels``: int64 ``(n,)``."""

    images: Tensor
    labels: Tensor


class Augmentation(Protocol):
    """A random change of each image, in two halves, so that an epoch's draws do not depend on how it is batched."""

    def draw(self, n: int, epoch: int, generator: torch.Generator) -> Tensor:
        """One row of random parameters for each of the ``n`` images of an epoch, on the CPU."""

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """float32 ``(b, channels, size, size)`` changed by its ``b`` rows of draws."""


class DeviceLoader:
    """Batches ``(images, labels)``: float32 ``(b, channels, size, size)`` and int64 ``(b,)``, on the split's device.

    The order and the augmentation are a function of ``(seed, epoch)`` alone. Lightning tells the epoch through
    ``sampler.set_epoch`` as it does for a DataLoader with a distributed sampler.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Mapping[str, Augmentation] | None = None,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.mean, self.std = mean, std
        self.shuffle = shuffle
        self.seed = seed
        self.augment = dict(augment or {})
        self.epoch = 0

    @property
    def sampler(self) -> "DeviceLoader":
        return self

    @property
    def batch_sampler(self) -> "DeviceLoader":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so that nothing is drawn before the first batch: Lightning sets the epoch after it calls iter().
        images, labels = self.split
        n, device = len(labels), labels.device
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(n, generator=generator).to(device) if self.shuffle else None
        draws = {name: a.draw(n, self.epoch, generator).to(device) for name, a in self.augment.items()}
        for start in range(0, n, self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            if order is not None:
                rows = order[rows]
            batch = normalize(images[rows], self.mean, self.std)
            for name, augmentation in self.augment.items():
                batch = augmentation.apply(batch, draws[name][rows])
            yield batch, labels[rows]
