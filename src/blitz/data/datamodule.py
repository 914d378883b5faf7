"""Base class of the data sets: their splits, checks and loaders. A data set is a subclass that reads its splits."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch
from lightning import LightningDataModule
from torch import Tensor

from blitz.data.augment import Augmentation
from blitz.data.loader import Images, Loader, Split
from blitz.data.transforms import Transform, stratified_split
from blitz.errors import UserError

LOADERS = ("auto", "device", "workers")


@dataclass(frozen=True)
class Batching:
    """Sizes of the batches, and the way in which images reach the device.

    Args:
        batch_size: number of training images in a batch of all processes together.
        eval_batch_size: likewise for validation and test.
        loader: ``device`` keeps a split on the device as one tensor; ``workers`` has processes fetch each batch;
            ``auto`` uses the former if the split fits into ``memory_limit``, and the latter otherwise.
        memory_limit: GiB of uint8 images per split.
        num_workers: number of worker processes of all ranks on a machine together. None is one per core.
    """

    batch_size: int
    eval_batch_size: int = 500
    loader: Literal["auto", "device", "workers"] = "auto"
    memory_limit: float = 4.0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.loader not in LOADERS:
            raise UserError(f"data.loader={self.loader}: no such loader; expected {', '.join(LOADERS)}")

    def in_memory(self, num_bytes: int) -> bool:
        """Return whether a split of uint8 images is kept as one tensor."""
        if self.loader == "auto":
            return num_bytes <= self.memory_limit * 2**30
        return self.loader == "device"


TRANSFORM_KEYS = ("channels", "image_size", "fit", "mean", "std")


class ImageSettings(TypedDict, total=False):
    """Keys of ``configs/data/*.yaml``: the arguments of ``Transform`` and of ``Batching``."""

    channels: int
    image_size: int
    fit: Literal["crop", "resize", "pad"]
    mean: Sequence[float]
    std: Sequence[float]
    batch_size: int
    eval_batch_size: int
    loader: Literal["auto", "device", "workers"]
    memory_limit: float
    num_workers: int | None


class ImageDataModule(LightningDataModule):
    """Small images, held in memory on the device that trains, or fetched by workers if they do not fit.

    A subclass defines ``read`` and, if there is something to download, ``download``.

    Args:
        root: directory that holds the data set.
        classes: names of the classes, by label.
        num_classes: number of ``classes``; checked if it is not None.
        val_fraction: part of the training split that is held out for validation, class by class, unless the data set
            has its own validation split. The test split is the official one, unchanged.
        split_seed: draws the validation images.
        seed: draws the training order and the augmentation.
        augment: augmentations of the training images, by name, in this order.
        settings: arguments of ``Transform`` (the images) and of ``Batching``.

    Raises:
        UserError: an argument or the data cannot be used.
    """

    def __init__(
        self,
        root: str,
        classes: Sequence[str],
        num_classes: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        augment: Mapping[str, Augmentation] | None = None,
        **settings: Unpack[ImageSettings],
    ) -> None:
        super().__init__()
        if num_classes not in (None, len(classes)):
            raise UserError(f"data.num_classes={num_classes}: not the number of data.classes; expected {len(classes)}")
        self.root = root
        self.classes = [str(name) for name in classes]
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.augment = list((augment or {}).values())
        arguments: dict[str, Any] = dict(settings)
        self.transform = Transform(**{key: arguments.pop(key) for key in TRANSFORM_KEYS if key in arguments})
        self.batching = Batching(**arguments)
        self.batch_size = self.batching.batch_size  # Lightning's Tuner reads and sets this attribute
        self.splits: dict[str, Split] = {}
        self._downloaded = False

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        """Return an official split: uint8 images of any size, and labels. Return None for ``val`` if there is none."""
        raise NotImplementedError

    def download(self) -> None:
        """Download and verify the data, unless it already exists."""

    def prepare_data(self) -> None:
        if not self._downloaded:  # Lightning calls this before each of fit, validate, test and predict
            self.download()
            self._downloaded = True

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.splits:
            train, val = self._read("train"), self._read("val")
            assert train is not None
            if val is None and self.val_fraction:
                parts = stratified_split(train.labels, self.val_fraction, self.split_seed)
                train, val = (Split(train.images, train.labels[rows], rows) for rows in parts)
            if self.batch_size > (n := len(train.labels)):
                raise UserError(f"data.batch_size={self.batch_size}: larger than the training data; expected <= {n}")
            self.splits["train"] = train
            if val is not None and len(val.labels):
                self.splits["val"] = val
        if stage in ("test", "predict") and "test" not in self.splits:
            test = self._read("test")
            assert test is not None
            self.splits["test"] = test

    def _read(self, name: Literal["train", "val", "test"]) -> Split | None:
        """Return a split whose images have the network's size, checked against the settings."""
        split = self.read(name)
        if split is None:
            return None
        if isinstance(split.images, Tensor):
            split = split._replace(images=self.transform.to_uint8(split.images))
        shape = tuple(split.images[torch.zeros(1, dtype=torch.long)].shape[1:])
        if shape != self.transform.shape:
            raise UserError(
                f"the data's images are {_times(shape)}, "
                f"but data.channels and data.image_size say {_times(self.transform.shape)}"
            )
        if (last := int(split.labels.max())) >= self.num_classes:
            raise UserError(f"data.classes: {self.num_classes} names, but the data has a label {last}")
        return split

    def checksums(self) -> dict[str, str]:
        """Return, by split, ``pixels:<sha256>`` of images and labels.

        For files that are decoded on demand it is ``files:<sha256>`` of their names and sizes.
        """
        images = {id(split.images): split.images for split in self.splits.values()}  # one tensor for several splits
        known = {key: _checksum(images[key]) for key in images}
        found = {}
        for name, split in self.splits.items():
            kind, digest = known[id(split.images)]
            parts = [digest, *(_checksum(tensor)[1] for tensor in (split.labels, split.rows) if tensor is not None)]
            found[name] = f"{kind}:{hashlib.sha256(b''.join(parts)).hexdigest()}"
        return found

    def describe(self, device: torch.device) -> dict[str, str]:
        """Return lines for the terminal: the splits, the images, and how they reach ``device``."""
        sizes = " + ".join(f"{len(split.labels):,} {name}" for name, split in self.splits.items())
        in_memory = self.in_memory(len(self.splits["train"].labels))
        source = f"whole on {device.type}" if in_memory else f"{self._num_workers} workers"
        return {
            "data": f"{type(self).__name__}, {sizes} images",
            "images": f"{_times(self.transform.shape, '×')}, {self.num_classes} classes, {source}",
        }

    def in_memory(self, n: int) -> bool:
        """Return whether a split of ``n`` images is kept as one tensor."""
        return self.batching.in_memory(n * math.prod(self.transform.shape))

    @property
    def _num_workers(self) -> int:
        return self.batching.num_workers or os.cpu_count() or 1

    def train_dataloader(self) -> Loader:
        overfit = getattr(self.trainer, "overfit_batches", 0)  # these batches must be the same in every epoch
        return self._loader("train", self.batch_size, shuffle=not overfit, seed=self.seed, augment=self.augment)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._loader("val", self.batching.eval_batch_size) if "val" in self.splits else []

    def test_dataloader(self) -> Loader:
        return self._loader("test", self.batching.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        return self.test_dataloader()

    def _loader(self, name: str, batch_size: int, **options: Any) -> Loader:
        device, workers = torch.device("cpu"), self._num_workers
        if trainer := self.trainer:
            device = trainer.strategy.root_device
            workers = max(1, workers * trainer.num_nodes // trainer.world_size)
            options |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
        if self.in_memory(len(self.splits[name].labels)):
            self._move(self.splits[name].images, device)
            workers = 0
        mean, std = self.transform.mean, self.transform.std
        return Loader(self.splits[name], batch_size, mean, std, device=device, workers=workers, **options)

    def _move(self, images: Images, device: torch.device) -> None:
        """Move a tensor of images to the device, once for all splits that share it."""
        if not isinstance(images, Tensor) or images.device == device:
            return
        moved = images.to(device)
        for name, split in self.splits.items():
            if split.images is images:
                rows = None if split.rows is None else split.rows.to(device)
                self.splits[name] = Split(moved, split.labels.to(device), rows)


def _checksum(data: Any) -> tuple[str, bytes]:
    if not isinstance(data, Tensor):
        return "files", data.checksum()
    array = data.cpu().contiguous().numpy()
    return "pixels", hashlib.sha256(str(array.shape).encode() + hashlib.sha256(array.data).digest()).digest()


def _times(sizes: Sequence[int], sign: str = "x") -> str:
    return sign.join(str(size) for size in sizes)
