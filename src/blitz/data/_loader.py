"""Batches from a split that lives on the device: a batch is an index; no worker, queue or copy stands between."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blitz.data._random import generator
from blitz.data._transforms import normalize
from blitz.data.augment import Augmentation


class Split(NamedTuple):
    """``images``: uint8 ``(n, channels, size, size)``; ``labels``: int64 ``(n,)``."""

    images: Tensor
    labels: Tensor


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
        augment: Sequence[Augmentation] = (),
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.mean, self.std = mean, std
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
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
        order = None
        if self.shuffle:
            order = torch.randperm(n, generator=generator(self.seed, "order", self.epoch)).to(device)
        draws = [a.draw(n, self.seed + i, self.epoch).to(device) for i, a in enumerate(self.augment)]
        for start in range(0, n, self.batch_size):
            rows: Any = slice(start, start + self.batch_size)
            if order is not None:
                rows = order[rows]
            batch = images[rows]
            for augmentation, drawn in zip(self.augment, draws, strict=True):
                batch = augmentation.apply(batch, drawn[rows])
            yield normalize(batch, self.mean, self.std), labels[rows]
