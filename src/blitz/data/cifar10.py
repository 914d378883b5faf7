"""CIFAR-10 (Krizhevsky, 2009), the official archive, through torchvision."""

from typing import Literal

import torch
from torchvision import datasets

from blitz.data._datamodule import ImageDataModule
from blitz.data._download import download
from blitz.data._loader import Split
from blitz.data._transforms import fit


class CIFAR10(ImageDataModule):
    """50,000 training and 10,000 test images, 32x32, RGB, ten classes."""

    def download(self) -> None:
        download(datasets.CIFAR10, self.root, {datasets.CIFAR10.filename: datasets.CIFAR10.tgz_md5})

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        raw = datasets.CIFAR10(self.root, train=name == "train")
        images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
        return Split(fit(images, self.image_size, self.fit), torch.tensor(raw.targets))
