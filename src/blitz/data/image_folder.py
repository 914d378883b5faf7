"""Your own images: ``root/{train,test}/<class>/*`` and, if you have a validation split, ``root/val/<class>/*``."""

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
from blitz.data.transforms import Transform
from blitz.errors import UserError

EXTENSIONS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


class ImageFolder(ImageDataModule):
    """Images of any size and mode. The classes are the directories in ``train``.

    Decoded images are cached in ``root/.blitz`` until a file of the split changes.

    Raises:
        UserError: a split or a class is missing or empty, or a file cannot be read as an image; the message names it.
    """

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        root = Path(self.root).expanduser()
        directory = root / name
        if name == "val" and not directory.is_dir():
            return None
        files = self._files(directory)
        paths = [path for found in files for path in found]
        labels = torch.tensor([label for label, found in enumerate(files) for _ in found])
        images = Files(paths, partial(_decode, transform=self.transform))
        if not self.in_memory(len(paths)):
            return Split(images, labels)
        kind = f"{name}-{self.transform.channels}x{self.transform.image_size}-{self.transform.fit}"
        key = cache.fingerprint(root, paths)
        return Split(cache.load_or_make(root / ".blitz", kind, key, images.decode_all), labels)

    def _files(self, directory: Path) -> list[list[str]]:
        """Return the paths of each class's images in the directory of a split."""
        if not directory.is_dir():
            raise UserError(
                f"data.root={self.root}: no directory {directory}; expected train/<class>/* and test/<class>/* in it"
            )
        self._refuse_unknown_classes(directory)
        files = [list(_images(directory / name)) for name in self.classes]
        if directory.name == "train":  # a class may be absent from val and test: its accuracy is then n/a
            for name, found in zip(self.classes, files, strict=True):
                if not found:
                    raise UserError(f"{directory / name}: no images in it; expected at least one for each class")
        if not any(files):
            raise UserError(f"{directory}: no images in it; expected images in {directory}/<class>/")
        return files

    def _refuse_unknown_classes(self, directory: Path) -> None:
        names = {entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith(".")}
        for unknown in sorted(names - set(self.classes)):
            known = ", ".join(self.classes)
            raise UserError(f"{directory / unknown}: not a class of {directory.parent / 'train'}; expected {known}")


class Files:
    """Images that stay files until they are indexed."""

    def __init__(self, paths: Sequence[str], decode: Callable[[str], Tensor]) -> None:
        self.paths, self.decode = paths, decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return uint8 ``(len(rows), channels, size, size)``."""
        return torch.stack([self.decode(self.paths[row]) for row in rows.tolist()])

    def checksum(self) -> bytes:
        """Return a digest of each file's ``class/name`` and size, independent of the root directory."""
        digest = hashlib.sha256()
        for path in self.paths:
            name = "/".join(path.rsplit(os.sep, 2)[-2:])
            digest.update(f"{name}\0{os.stat(path).st_size}\0".encode(errors="surrogateescape"))  # noqa: PTH116
        return digest.digest()

    def decode_all(self) -> Tensor:
        """Return all images: uint8 ``(n, channels, size, size)``."""
        first = self.decode(self.paths[0])
        images = torch.empty(len(self), *first.shape, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            for row, image in enumerate(pool.map(self.decode, self.paths)):
                images[row] = image
        return images


def _images(directory: Path) -> Iterator[str]:
    """Yield the paths of a class's images in the order of their names; none if there is no such directory."""
    if directory.is_dir():
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if Path(entry.name).suffix.lower() in EXTENSIONS and not entry.name.startswith("."):
                yield entry.path


def _decode(path: str, transform: Transform) -> Tensor:
    try:
        with Image.open(path) as image:
            return transform.to_uint8(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error
