"""Your own images: ``root/{train,test}/<class>/*``, and ``root/val/<class>/*`` where you have it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from blitz.data import cache
from blitz.data.datamodule import ImageDataModule
from blitz.data.loader import Split
from blitz.data.transforms import fit, to_tensor
from blitz.errors import UserError

EXTENSIONS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


class ImageFolder(ImageDataModule):
    """A class is a folder of ``train``; images of any size and mode become ``(channels, image_size, image_size)``.

    What was decoded once is kept in ``root/.blitz`` and read from there until a file of the split changes.

    Raises:
        UserError: a split or a class is missing or empty, or a file cannot be read as an image; it is named.
    """

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        root = Path(self.root).expanduser()
        folder = root / name
        if not folder.is_dir():
            if name == "val":
                return None
            raise UserError(
                f"data.root={self.root}: no folder {folder}; an image folder holds train/<class>/* and test/<class>/*"
            )
        self._refuse_unknown_classes(folder)
        files = [list(_images(folder / cls)) for cls in self.classes]
        if name == "train":  # in val and test a class may be absent: its accuracy is then n/a
            for cls, found in zip(self.classes, files, strict=True):
                if not found:
                    raise UserError(f"{folder / cls}: no images in it; a class needs some to be learned from")
        labels = torch.tensor([label for label, found in enumerate(files) for _ in found])
        paths = [path for found in files for path in found]
        if not paths:
            raise UserError(f"{folder}: no images in it; put them into {folder}/<class>/")
        decode = partial(_decode, channels=self.channels, size=self.image_size, how=self.fit)
        images = Files(paths, decode)
        if not self.in_memory(len(paths)):
            return Split(images, labels)
        kind = f"{name}-{self.channels}x{self.image_size}-{self.fit}"
        return Split(cache.tensor(root / ".blitz", kind, cache.fingerprint(root, paths), images.decode_all), labels)

    def _refuse_unknown_classes(self, folder: Path) -> None:
        there = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
        for unknown in sorted(there - set(self.classes)):
            known = ", ".join(self.classes)
            raise UserError(f"{folder / unknown}: not a class of {folder.parent / 'train'} ({known})")


class Files:
    """Images that stay files until they are asked for."""

    def __init__(self, paths: Sequence[str], decode: Callable[[str], Tensor]) -> None:
        self.paths, self.decode = paths, decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """uint8 ``(len(rows), channels, size, size)``."""
        return torch.stack([self.decode(self.paths[row]) for row in rows.tolist()])

    def checksum(self) -> bytes:
        """Of ``class/name`` and size of each, wherever the folder is."""
        digest = hashlib.sha256()
        for path in self.paths:
            name = "/".join(path.rsplit(os.sep, 2)[-2:])
            digest.update(f"{name}\0{os.stat(path).st_size}\0".encode(errors="surrogateescape"))  # noqa: PTH116
        return digest.digest()

    def decode_all(self) -> Tensor:
        first = self.decode(self.paths[0])
        images = torch.empty(len(self), *first.shape, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            for row, image in enumerate(pool.map(self.decode, self.paths)):
                images[row] = image
        return images


def _images(folder: Path) -> Iterator[str]:
    """The paths of a class's images, by name; none where there is no such folder."""
    if folder.is_dir():
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if Path(entry.name).suffix.lower() in EXTENSIONS and not entry.name.startswith("."):
                yield entry.path


def _decode(path: str, channels: int, size: int, how: str) -> Tensor:
    try:
        with Image.open(path) as image:
            return fit(to_tensor(image, channels), size, how)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error
