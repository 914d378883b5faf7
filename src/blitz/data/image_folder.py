"""Your own images: ``root/{train,test}/<class>/*`` and, if you have a validation split, ``root/val/<class>/*``."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from PIL import Image, ImageFile
from rich.progress import track
from torch import Tensor

from blitz.config.paths import as_text
from blitz.config.resolvers import class_names
from blitz.data import cache
from blitz.data.datamodule import ImageDataModule
from blitz.data.loader import Split
from blitz.data.transforms import EXTENSIONS, Transform, errors_name
from blitz.errors import UserError

NESTED, OTHERS = "images that are not directly in a class directory", "files of other kinds"


class ImageFolder(ImageDataModule):
    """Images of any size and mode. The classes are the directories in ``train``.

    Decoded images, and the digests of files that are decoded on demand, are cached in ``root/.blitz`` until a file of
    the split changes. Only regular files in a class directory are images. ``describe`` counts the others.

    Raises:
        UserError: a split or a class is missing or empty, or a file cannot be read as an image; the message names it.
    """

    _skipped: Mapping[str, Counter[str]] = MappingProxyType({})  # by split: number of unused entries of each kind

    def read(self, name: Literal["train", "val", "test"]) -> Split | None:
        root = Path(self.root).expanduser()
        directory = root / name
        if name == "val" and not directory.is_dir():
            return None
        files = self._files(directory)
        paths = [path for found in files for path in found]
        labels = torch.tensor([label for label, found in enumerate(files) for _ in found])
        images = Files(paths, partial(_decode, transform=self.transform))
        cached = partial(cache.load_or_make, root / ".blitz", key=cache.fingerprint(root, paths))
        if not self.batching.in_memory(len(paths), self.transform.shape):
            digest = cached(kind=f"digest-{name}", shape=(32,), make=images.verify)
            return Split(images, labels, source=bytes(digest.tolist()))
        kind = f"{name}-{self.transform.channels}x{self.transform.image_size}-{self.transform.fit}"
        decoded = cached(kind=kind, shape=(len(paths), *self.transform.shape), make=images.decode_all)
        digest = cached(kind=f"digest-{name}", shape=(32,), make=images.digest)
        return Split(decoded, labels, source=bytes(digest.tolist()))

    def describe(self, device: torch.device) -> dict[str, str]:
        lines = super().describe(device)
        total = sum(self._skipped.values(), Counter())
        if total:
            lines["not used"] = "; ".join(f"{kind}: {count:,}" for kind, count in total.items())
        return lines

    def _files(self, directory: Path) -> list[list[str]]:
        """Return the paths of each class's images in the directory of a split."""
        if not directory.is_dir():
            raise UserError(
                f"data.root={self.root}: no directory {directory}; expected train/<class>/* and test/<class>/* in it"
            )
        self._refuse_unknown_classes(directory)
        found = [_list(directory / os.fsdecode(name.encode())) for name in self.classes]
        outside = sum(_is_image(entry.name) and not entry.is_dir() for entry in os.scandir(directory))
        skipped = sum((listing.skipped for listing in found), Counter({NESTED: outside}))
        self._skipped = {**self._skipped, directory.name: skipped}
        if directory.name == "train":  # a class may be absent from val and test: its accuracy is then n/a
            for name, listing in zip(self.classes, found, strict=True):
                if not listing.images:
                    nested = f", but {count} in its subdirectories" if (count := listing.skipped[NESTED]) else ""
                    raise UserError(
                        f"{directory / name}: no images in it{nested}; expected at least one for each class"
                    )
        if not any(listing.images for listing in found):
            raise UserError(f"{directory}: no images in it; expected images in {directory}/<class>/")
        return [listing.images for listing in found]

    def _refuse_unknown_classes(self, directory: Path) -> None:
        for unknown in sorted(set(class_names(directory)) - set(self.classes)):
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
        """Return the SHA-256 of each file's ``class/name`` and content, independent of the root directory."""
        return bytes(self.digest().tolist())

    def digest(self, check: Callable[[str], None] = lambda _: None) -> Tensor:
        """Return the checksum as a uint8 tensor ``(32,)``, and call ``check`` for each path."""
        total = hashlib.sha256()
        for path in self.paths:
            check(path)
            total.update(b"/".join(os.fsencode(part) for part in path.rsplit(os.sep, 2)[-2:]) + b"\0")
            with open(path, "rb") as file:  # noqa: PTH123  60,000 Path objects would take longer than this
                total.update(hashlib.file_digest(file, "sha256").digest())
        return torch.tensor(list(total.digest()), dtype=torch.uint8)

    def verify(self) -> Tensor:
        """Return the digest, and check the header of each file, and its checksums if its format has any."""
        return self.digest(_verify)

    def decode_all(self) -> Tensor:
        """Return all images: uint8 ``(n, channels, size, size)``."""
        first = self.decode(self.paths[0])
        images = torch.empty(len(self), *first.shape, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            decoded = pool.map(self.decode, self.paths)
            shown = track(decoded, "decoding", len(self), transient=True, disable=not sys.stdout.isatty())
            for row, image in enumerate(shown):
                images[row] = image
        return images


class _Listing(NamedTuple):
    """Paths of the images of a class, and the number of unused entries of each kind."""

    images: list[str]
    skipped: Counter[str]


def _list(directory: Path) -> _Listing:
    """List the images of a class in the order of their names. If there is no such directory, the list is empty."""
    found = _Listing([], Counter())
    if directory.is_dir():
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and not entry.is_symlink():
                nested = sum(_is_image(name) for _, _, names in os.walk(entry.path) for name in names)
                found.skipped[NESTED] += nested
            elif entry.is_dir() or not _is_image(entry.name):
                found.skipped[OTHERS] += 1
            elif not entry.is_file():  # opening a FIFO would block forever
                raise UserError(f"{as_text(entry)}: neither a regular file nor a link to one; expected an image")
            else:
                found.images.append(entry.path)
    return found


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")  # noqa: PTH122


def _decode(path: str, transform: Transform) -> Tensor:
    return transform.read(path)


def _verify(path: str) -> None:
    with errors_name(path), Image.open(path) as image:
        if isinstance(image, ImageFile.StubImageFile):
            image.load()  # raises: Pillow recognizes the format, but has no decoder
        image.verify()
