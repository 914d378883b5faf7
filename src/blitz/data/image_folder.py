"""Your own images: ``root/{train,test}/<class>/*``, and ``root/val/<class>/*`` where you have it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from blitz.data._datamodule import ImageDataModule
from blitz.data._loader import Split
from blitz.data._transforms import fit, to_tensor

EXTENSIONS = frozenset(Image.registered_extensions())


class ImageFolder(ImageDataModule):
    """A class is a folder of ``train``; images of any size and mode become ``(channels, image_size, image_size)``.

    Raises:
        ValueError: a split or a class is missing or empty, or a file cannot be read as an image; it is named.
    """

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        folder = Path(self.root).expanduser() / name
        if not folder.is_dir():
            if name == "val":
                return None
            raise ValueError(
                f"data.root={self.root}: no folder {folder}; an image folder holds train/<class>/* and test/<class>/*"
            )
        unknown = sorted(
            {entry.name for entry in folder.iterdir() if entry.is_dir()} - set(self.classes) - _hidden(folder)
        )
        if unknown:
            raise ValueError(
                f"{folder / unknown[0]}: not a class of {folder.parent / 'train'} ({', '.join(self.classes)})"
            )
        files = [(path, label) for label, cls in enumerate(self.classes) for path in self._files(folder / cls, name)]
        if not files:
            raise ValueError(f"{folder}: no images in it; put them into {folder}/<class>/")
        images = torch.empty(len(files), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            for row, image in enumerate(pool.map(self._decode, (path for path, _ in files), chunksize=64)):
                images[row] = image
        return Split(images, torch.tensor([label for _, label in files]))

    def _files(self, folder: Path, name: str) -> list[Path]:
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        images = [path for path in files if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")]
        if name == "train" and not images:  # in val and test a class may be absent: its accuracy is then n/a
            raise ValueError(
                f"{folder}: no images in it, and a class needs some to be learned from; fill it or remove it"
            )
        return images

    def _decode(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                return fit(to_tensor(image, self.channels), self.image_size, self.fit)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error


def _hidden(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.name.startswith(".")}
