"""MNIST (LeCun, Cortes and Burges, 1998), the official four files, through torchvision."""

from typing import Literal

from torchvision import datasets

from blitz.data._datamodule import ImageDataModule
from blitz.data._download import download
from blitz.data._loader import Split
from blitz.data._transforms import fit


class MNIST(ImageDataModule):
    """60,000 training and 10,000 test images, 28x28, greyscale."""

    def download(self) -> None:
        files = [f"MNIST/raw/{url}" for url, _ in datasets.MNIST.resources]
        download(datasets.MNIST, self.root, dict(zip(files, (md5 for _, md5 in datasets.MNIST.resources), strict=True)))

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        raw = datasets.MNIST(self.root, train=name == "train")
        return Split(fit(raw.data[:, None], self.image_size, self.fit), raw.targets)
