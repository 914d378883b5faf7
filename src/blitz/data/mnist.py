"""MNIST (LeCun, Cortes and Burges, 1998), the official four files, through torchvision."""

from pathlib import Path
from typing import Literal

from torchvision import datasets

from blitz.data.datamodule import ImageDataModule
from blitz.data.download import download
from blitz.data.loader import Split

SIZES = {  # bytes
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}


class MNIST(ImageDataModule):
    """60,000 training and 10,000 test images, 28x28, greyscale."""

    def download(self) -> None:
        raw = Path(self.root).expanduser() / "MNIST" / "raw"
        for name, size in SIZES.items():
            if (raw / name).exists() and (raw / name).stat().st_size != size:
                (raw / name).unlink()  # a partial extraction, which torchvision would accept; now it extracts it again
        files = [f"MNIST/raw/{url}" for url, _ in datasets.MNIST.resources]
        download(datasets.MNIST, self.root, dict(zip(files, (md5 for _, md5 in datasets.MNIST.resources), strict=True)))

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        if name == "val":
            return None
        raw = datasets.MNIST(self.root, train=name == "train")
        return Split(raw.data[:, None], raw.targets)
