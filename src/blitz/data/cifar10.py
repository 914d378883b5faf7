"""CIFAR-10 (Krizhevsky, 2009), the official archive, through torchvision."""

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision import datasets

from blitz.data.datamodule import ImageDataModule
from blitz.data.download import download
from blitz.data.loader import Split


class CIFAR10(ImageDataModule):
    """50,000 training and 10,000 test images, 32x32, RGB, ten classes."""

    def download(self) -> None:
        download(datasets.CIFAR10, self.root, {datasets.CIFAR10.filename: datasets.CIFAR10.tgz_md5})

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        # torchvision's class would hold all images twice in memory while it concatenates the files.
        directory = Path(self.root).expanduser() / datasets.CIFAR10.base_folder
        files = datasets.CIFAR10.train_list if name == "train" else datasets.CIFAR10.test_list
        parts = [_load(directory / file) for file, _ in files]
        labels = torch.tensor([label for part in parts for label in part["labels"]])
        images = torch.empty(len(labels), 3, 32, 32, dtype=torch.uint8)
        rest = images
        while parts:
            part = torch.from_numpy(parts.pop(0)["data"]).reshape(-1, 3, 32, 32)
            rest[: len(part)] = part
            rest = rest[len(part) :]
        return Split(images, labels)


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")
