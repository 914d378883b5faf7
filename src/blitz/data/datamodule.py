"""What every data set shares: splits, checks and loaders. A data set itself is a subclass that reads its splits."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from blitz.data.augment import Augmentation
from blitz.data.loader import Loader, Split
from blitz.data.transforms import FITS, MODES, stratified_split
from blitz.errors import UserError

LOADERS = ("auto", "device", "workers")


class ImageDataModule(LightningDataModule):
    """Small images, whole in memory, on the device that trains.

    A subclass gives ``read`` and, where there is something to download, ``download``.

    Args:
        root: the folder that holds the data set.
        fit: how an image is brought to ``image_size``: ``crop``, ``resize`` or ``pad``.
        mean: of values in [0, 1], per channel or one for all; with ``std`` it normalises the batches.
        val_fraction: the part of the training split held out for validation, class by class, unless the data set
            brings a validation split of its own. The test split is the official one, untouched.
        loader: ``device`` keeps a split as one tensor there, ``workers`` has processes fetch each batch; ``auto`` takes
            the first where the split fits into ``memory_limit``, the second where it does not.
        memory_limit: GiB of uint8 images, for each split.
        batch_size: of all processes together, as is ``eval_batch_size``.
        num_workers: of all processes of a machine together; one a core where it is None.
        split_seed: draws the validation images; ``seed`` draws the training order and the augmentation.

    Raises:
        UserError: an argument or the data cannot be used; one line that says which and what can.
    """

    def __init__(
        self,
        root: str,
        classes: Sequence[str],
        num_classes: int,
        channels: int,
        image_size: int,
        fit: str,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        eval_batch_size: int = 500,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        augment: Mapping[str, Augmentation] | None = None,
        loader: Literal["auto", "device", "workers"] = "auto",
        memory_limit: float = 4.0,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if channels not in MODES:
            raise UserError(f"data.channels={channels} is not valid: 1 is greyscale, 3 is RGB")
        if fit not in FITS:
            raise UserError(f"data.fit={fit} is not valid; there are {', '.join(FITS)}")
        if loader not in LOADERS:
            raise UserError(f"data.loader={loader} is not valid; there are {', '.join(LOADERS)}")
        if num_classes != len(classes):
            raise UserError(f"data.num_classes={num_classes} is not valid: data.classes names {len(classes)}")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise UserError(f"data.{name}={list(values)} must have one value for each of {channels} channels")
        self.root = root
        self.classes = [str(name) for name in classes]
        self.channels = channels
        self.image_size = image_size
        self.fit = fit
        self.mean, self.std = list(mean), list(std)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.augment = list((augment or {}).values())
        self.loader = loader
        self.memory_limit = memory_limit
        self.workers = num_workers or os.cpu_count() or 1
        self.splits: dict[str, Split] = {}
        self._downloaded = False

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        """The official split of that name; for ``val`` None where the data set has none of its own."""
        raise NotImplementedError

    def download(self) -> None:
        """Find, or download and verify, what ``read`` reads."""

    def prepare_data(self) -> None:
        if not self._downloaded:  # Lightning asks before each of fit, validate, test and predict
            self.download()
            self._downloaded = True

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.splits:
            train, val = self._read("train"), self.read("val")
            if val is None and self.val_fraction:
                kept, held_out = stratified_split(train.labels, self.val_fraction, self.split_seed)
                train, val = (Split(train.images, train.labels[rows], rows) for rows in (kept, held_out))
            self.splits["train"] = train
            if val is not None and len(val.labels):
                self.splits["val"] = val
            if self.batch_size > len(train.labels):
                raise UserError(
                    f"data.batch_size={self.batch_size} is larger than the training data: {len(train.labels)} images"
                )
        if stage in ("test", "predict") and "test" not in self.splits:
            self.splits["test"] = self._read("test")

    def checksums(self) -> dict[str, str]:
        """Of each split, ``pixels:<sha256>``, of images and labels; or, of files decoded on demand, ``files:<sha256>``,
        of their names and sizes.
        """
        images = {id(split.images): split.images for split in self.splits.values()}  # one tensor for several splits
        known = {key: _checksum(images[key]) for key in images}
        found = {}
        for name, split in self.splits.items():
            kind, digest = known[id(split.images)]
            parts = [digest, *(_checksum(tensor)[1] for tensor in (split.labels, split.rows) if tensor is not None)]
            found[name] = f"{kind}:{hashlib.sha256(b''.join(parts)).hexdigest()}"
        return found

    def _read(self, name: Literal["train", "test"]) -> Split:
        split = self.read(name)
        assert split is not None
        size = (self.channels, self.image_size, self.image_size)
        shape = split.images[torch.zeros(1, dtype=torch.long)].shape[1:]
        if shape != size:
            raise UserError(
                f"the data's images are {_times(shape)}, but data.channels and data.image_size say {_times(size)}"
            )
        if int(split.labels.max()) >= len(self.classes):
            raise UserError(
                f"the data has a label {int(split.labels.max())}, but data.classes names {len(self.classes)} classes"
            )
        return split

    def describe(self, device: torch.device) -> dict[str, str]:
        """Return lines for the terminal: the splits, the images, and how they reach ``device``."""
        sizes = " + ".join(f"{len(split.labels):,} {name}" for name, split in self.splits.items())
        whole = self.in_memory(len(self.splits["train"].labels))
        source = f"whole on {device.type}" if whole else f"{self.workers} workers"
        size = f"{self.channels}×{self.image_size}×{self.image_size}"
        return {
            "data": f"{type(self).__name__}, {sizes} images",
            "images": f"{size}, {len(self.classes)} classes, {source}",
        }

    def in_memory(self, n: int) -> bool:
        """Whether a split of ``n`` images is to be one tensor."""
        if self.loader == "auto":
            return n * self.channels * self.image_size**2 <= self.memory_limit * 2**30
        return self.loader == "device"

    def train_dataloader(self) -> Loader:
        overfit = getattr(self.trainer, "overfit_batches", 0)  # batches that must be the same in every epoch
        return self._loader("train", self.batch_size, shuffle=not overfit, seed=self.seed, augment=self.augment)

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._loader("val", self.eval_batch_size) if "val" in self.splits else []

    def test_dataloader(self) -> Loader:
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        return self.test_dataloader()

    def _loader(self, name: str, batch_size: int, **options: Any) -> Loader:
        split = self.splits[name]
        device, rank, world_size, workers = torch.device("cpu"), 0, 1, self.workers
        if trainer := self.trainer:
            device, rank, world_size = trainer.strategy.root_device, trainer.global_rank, trainer.world_size
            workers = max(1, workers * trainer.num_nodes // world_size)
        in_memory = self.in_memory(len(split.labels))
        if in_memory and isinstance(split.images, Tensor):
            if split.images.device != device:  # once, for all splits that are a part of it
                whole = split.images.to(device)
                for part, other in self.splits.items():
                    if other.images is split.images:
                        rows = None if other.rows is None else other.rows.to(device)
                        self.splits[part] = Split(whole, other.labels.to(device), rows)
            split = self.splits[name]
        mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        where: dict[str, Any] = {"device": device, "rank": rank, "world_size": world_size}
        return Loader(split, batch_size, mean, std, workers=0 if in_memory else workers, **where, **options)


def _checksum(data: Any) -> tuple[str, bytes]:
    if not isinstance(data, Tensor):
        return "files", data.checksum()
    array = data.cpu().contiguous().numpy()
    return "pixels", hashlib.sha256(str(array.shape).encode() + hashlib.sha256(array.data).digest()).digest()


def _times(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
