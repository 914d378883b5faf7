"""Base class of the data sets: their splits, checks and loaders. A data set is a subclass that reads its splits."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
from lightning import LightningDataModule
from torch import Tensor

from blitz.data.augment import Augmentation
from blitz.data.checks import check_fraction, check_integer, check_positive
from blitz.data.loader import Images, Loader, Split
from blitz.data.per_image import PerImage
from blitz.data.transforms import Transform, stratified_split
from blitz.errors import UserError
from blitz.process.ranks import num_cores

LOADERS = ("auto", "device", "workers")
MAX_WORKERS = 256
DECODE_BATCH = 128


@dataclass(frozen=True)
class Batching:
    """Sizes of the batches, and the way in which images reach the device.

    Args:
        batch_size: number of training images in a batch of all processes together.
        eval_batch_size: likewise for validation and test.
        loader: ``device`` keeps a split on the device as one tensor; ``workers`` has processes fetch each batch;
            ``auto`` uses the former if the split is a tensor that fits into ``memory_limit``, and the latter otherwise.
        memory_limit: GiB of uint8 images per split.
        num_workers: number of worker processes of all ranks on a machine together. None: one per core. 0: the
            training process fetches the batches itself.
    """

    batch_size: int
    eval_batch_size: int = 500
    loader: Literal["auto", "device", "workers"] = "auto"
    memory_limit: float = 4.0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.loader not in LOADERS:
            raise UserError(f"data.loader={self.loader}: no such loader; expected {', '.join(LOADERS)}")
        check_integer("batch_size", self.batch_size, 1)
        check_integer("eval_batch_size", self.eval_batch_size, 1)
        check_positive("memory_limit", self.memory_limit)
        if self.num_workers is not None:
            check_integer("num_workers", self.num_workers, 0, MAX_WORKERS)

    def in_memory(self, n: int, shape: tuple[int, ...]) -> bool:
        """Return whether ``n`` uint8 images of this ``shape`` are kept on the device as one tensor."""
        if self.loader == "auto":
            return n * math.prod(shape) <= self.memory_limit * 2**30
        return self.loader == "device"

    @property
    def workers(self) -> int:
        """Number of worker processes on a machine."""
        return num_cores() if self.num_workers is None else self.num_workers


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
        classes: names of the classes, by label; at least two.
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
        _check_classes(classes)
        check_fraction("val_fraction", val_fraction)
        if num_classes not in (None, len(classes)):
            raise UserError(f"data.num_classes={num_classes}: not the number of data.classes; expected {len(classes)}")
        self.root = root
        self.classes = [str(name) for name in classes]
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.augment = _augmentations(augment)
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
        """Return an official split. Return None for ``val`` if there is none.

        Its images are a uint8 tensor of any size, or an object that decodes them to the network's size on demand.
        Workers decode the latter. If ``data.loader`` is ``device``, all images are decoded once.
        """
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
                train, val = self._hold_out(train)
            if self.batch_size > (n := len(train.labels)):
                raise UserError(f"data.batch_size={self.batch_size}: larger than the training data; expected <= {n}")
            self.splits["train"] = train
            if val is not None:
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
        self._check_split(name, split)
        if isinstance(split.images, Tensor):
            split = split._replace(images=self.transform.to_uint8(split.images))
        else:
            split = split._replace(source=split.source or self._digest(split.images))
            if self.batching.loader == "device":
                split = split._replace(images=_decode_all(split.images))
        shape = tuple(split.images[torch.zeros(1, dtype=torch.long)].shape[1:])
        if shape != self.transform.shape:
            raise UserError(
                f"the data's images are {_times(shape)}, "
                f"but data.channels and data.image_size say {_times(self.transform.shape)}"
            )
        return split

    def _check_split(self, name: str, split: Split) -> None:
        """Refuse a split whose labels or images have a wrong type, number or range."""
        labels, where = split.labels, f"data: the {name} split of {type(self).__name__}"
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            kind = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise UserError(f"{where} has labels of type {kind}; expected a tensor of int64, one for each image")
        if len(labels) != (n := len(split.images if split.rows is None else split.rows)):
            raise UserError(f"{where} has {len(labels)} labels; expected one for each of its {n} images")
        if not n:
            raise UserError(f"{where} is empty; expected at least one image")
        if (first := int(labels.min())) < 0:
            raise UserError(f"{where} has a label {first}; expected labels from 0 to {self.num_classes - 1}")
        if (last := int(labels.max())) >= self.num_classes:
            raise UserError(f"data.classes: {self.num_classes} names, but the data has a label {last}")
        image = split.images[torch.zeros(1, dtype=torch.long)]
        if image.dtype != torch.uint8:
            raise UserError(f"{where} has images of type {image.dtype}; expected uint8, with values from 0 to 255")

    def _digest(self, images: Any) -> bytes:
        if not hasattr(images, "checksum"):
            raise UserError(f"data: {type(images).__name__} of {type(self).__name__} has no checksum(); expected one")
        return bytes(images.checksum())

    def _hold_out(self, train: Split) -> tuple[Split, Split]:
        """Split the training images into a training and a validation part."""
        rest, part = stratified_split(train.labels, self.val_fraction, self.split_seed)
        if not len(part):
            raise UserError(
                f"data.val_fraction={self.val_fraction}: no image of any class is left for validation; "
                "expected a larger fraction, or 0 for no validation"
            )
        before, after = (
            torch.bincount(labels, minlength=self.num_classes) for labels in (train.labels, train.labels[rest])
        )
        lost = (before > 0) & (after == 0)
        if lost.any():
            name = self.classes[int(lost.nonzero()[0])]
            raise UserError(
                f"data.val_fraction={self.val_fraction}: no image of class {name} is left for training; "
                "expected a smaller fraction"
            )
        return train.select(rest), train.select(part)

    def class_counts(self) -> Tensor:
        """Return the number of training images of each class, int64 ``(classes,)``."""
        return torch.bincount(self.splits["train"].labels.cpu(), minlength=self.num_classes)

    def checksums(self) -> dict[str, str]:
        """Return a checksum of images, labels and rows by split. It does not depend on ``data.loader``.

        It is ``contents:<sha256>`` if the images come from files, and ``pixels:<sha256>`` otherwise.
        """
        known: dict[int, tuple[str, bytes]] = {}
        found = {}
        for name, split in self.splits.items():
            if id(split.images) not in known:  # several splits may share one tensor
                known[id(split.images)] = _checksum_of_images(split)
            kind, digest = known[id(split.images)]
            parts = [digest, *(_checksum(tensor) for tensor in (split.labels, split.rows) if tensor is not None)]
            found[name] = f"{kind}:{hashlib.sha256(b''.join(parts)).hexdigest()}"
        return found

    def describe(self, device: torch.device) -> dict[str, str]:
        """Return lines for the terminal: the splits, the images, and how they reach ``device``."""
        sizes = " + ".join(f"{len(split.labels):,} {name}" for name, split in self.splits.items())
        sources = {name: self._source(split, device) for name, split in self.splits.items()}
        texts = set(sources.values())
        source = texts.pop() if len(texts) == 1 else ", ".join(f"{name} {text}" for name, text in sources.items())
        return {
            "data": f"{type(self).__name__}, {sizes} images",
            "images": f"{_times(self.transform.shape, '×')}, {self.num_classes} classes, {source}",
        }

    def _source(self, split: Split, device: torch.device) -> str:
        """Return how the images of a split reach the device."""
        if self._in_memory(split):
            return f"whole on {device.type}"
        workers = self.batching.workers
        return f"{workers} {'worker' if workers == 1 else 'workers'}" if workers else "fetched by the training process"

    def _in_memory(self, split: Split) -> bool:
        """Return whether a split is kept on the device as one tensor."""
        return isinstance(split.images, Tensor) and self.batching.in_memory(len(split.images), self.transform.shape)

    def train_dataloader(self) -> Loader:
        overfit = getattr(self.trainer, "overfit_batches", 0)  # these batches must be the same in every epoch
        return self._loader("train", self.batch_size, shuffle=not overfit, seed=self.seed, augment=self.augment)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._loader("val", self.batching.eval_batch_size) if "val" in self.splits else []

    def test_dataloader(self) -> Loader:
        return self._loader("test", self.batching.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        return self.test_dataloader()

    def split_dataloader(self, name: str) -> Loader:
        """Return the batches of ``train``, ``val`` or ``test`` in the order of the data, without augmentation."""
        if name not in self.splits:
            raise UserError(f"inputs={name}: the data has no such split; expected {' or '.join(self.splits)}")
        return self._loader(name, self.batching.eval_batch_size)

    def _loader(self, name: str, batch_size: int, **options: Any) -> Loader:
        device, workers = torch.device("cpu"), self.batching.workers
        if trainer := self.trainer:
            device = trainer.strategy.root_device
            workers = max(min(workers, 1), workers * trainer.num_nodes // trainer.world_size)
            options |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
        if self._in_memory(self.splits[name]):
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
                self.splits[name] = split._replace(images=moved, labels=split.labels.to(device), rows=rows)


def _check_classes(classes: Any) -> None:
    """Refuse anything but a list of at least two different names. Whole numbers count as names."""
    known = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not known or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in classes):
        raise UserError(f"data.classes={classes}: not valid; expected a list of names")
    names = [str(name) for name in classes]
    if len(names) < 2:
        raise UserError(f"data.classes={names}: too few classes; expected at least two")
    if "" in names:
        raise UserError(f"data.classes={names}: a name is empty; expected a name for each class")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"data.classes={names}: {name!r} occurs {count} times; expected different names")


def _augmentations(augment: Any) -> list[Augmentation]:
    """Return the augmentations of a mapping by name, without those that are None."""
    if not isinstance(augment, Mapping | None):
        raise UserError(f"data.augment={augment}: not valid; expected augmentations by name")
    for name, found in (augment or {}).items():
        for method in ("draw", "apply"):
            if found is not None and not callable(getattr(found, method, None)):
                raise UserError(f"data.augment.{name}={found}: it has no {method}(); expected an augmentation, or null")
        if isinstance(found, PerImage):
            found.key = f"data.augment.{name}"
    return [found for found in (augment or {}).values() if found is not None]


def _decode_all(images: Images) -> Tensor:
    """Decode all images: uint8 ``(n, channels, size, size)``."""
    first = images[torch.zeros(1, dtype=torch.long)]
    decoded = torch.empty(len(images), *first.shape[1:], dtype=torch.uint8)
    for first_row in range(0, len(images), DECODE_BATCH):
        rows = torch.arange(first_row, min(first_row + DECODE_BATCH, len(images)))
        decoded[rows] = images[rows]
    return decoded


def _checksum_of_images(split: Split) -> tuple[str, bytes]:
    if split.source is not None:
        return "contents", split.source
    return "pixels", _checksum(cast("Tensor", split.images))


def _checksum(data: Tensor) -> bytes:
    array = data.cpu().contiguous().numpy()
    return hashlib.sha256(str(array.shape).encode() + hashlib.sha256(array.data).digest()).digest()


def _times(sizes: Sequence[int], sign: str = "x") -> str:
    return sign.join(str(size) for size in sizes)
