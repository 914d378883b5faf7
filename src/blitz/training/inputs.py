"""Inputs of predictions: files, or a split of the data set."""

import glob
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from blitz.config.paths import as_text
from blitz.errors import UserError
from blitz.runs.protocols import FileTransform, OrderedData

BATCH_SIZE = 128  # files, if the recorded config has no batch size
SPLITS = {"train": "fit", "val": "validate", "test": "test"}  # name of a split: the stage for ``setup``


def find_files(inputs: str, extensions: Collection[str]) -> list[str]:
    """Return the files that ``inputs`` names, in the order of their paths, part by part.

    Args:
        inputs: a file; a directory, whose files are found at any depth if their names have one of the ``extensions``;
            or a pattern such as ``photos/*.jpg``, in which ``**`` stands for directories of any depth. Hidden files
            are left out, unless a pattern names them.

    Raises:
        UserError: there is no such file.
    """
    path = os.path.expanduser(inputs)  # noqa: PTH111 text keeps a leading ./, and names that are not UTF-8
    if os.path.isdir(path):  # noqa: PTH112
        found = [file for file in _files_below(path) if os.path.splitext(file)[1].lower() in extensions]  # noqa: PTH122
        expected = f"expected files whose names end with {', '.join(_common(extensions))} or a similar ending"
    elif os.path.lexists(path):
        return [path]
    else:
        found = [file for file in glob.glob(path, recursive=True) if not os.path.isdir(file)]  # noqa: PTH112, PTH207
        expected = "expected an image, a directory, a pattern such as 'photos/*.jpg', or a split: train, val or test"
    if not found:
        raise UserError(f"inputs={inputs}: no such file; {expected}")
    return sorted(found, key=lambda file: Path(file).parts)


def _files_below(directory: str) -> Iterator[str]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))  # noqa: PTH118


def _common(extensions: Collection[str]) -> list[str]:
    return [ending for ending in (".png", ".jpg") if ending in extensions] or sorted(extensions)[:5]


def file_batches(inputs: str, task: LightningModule, batch_size: int | None) -> "FileBatches":
    """Return the batches of the files that ``inputs`` names, as the task's transform prepares them.

    Args:
        batch_size: None: ``BATCH_SIZE``.

    Raises:
        UserError: there is no such file, or the task cannot read files.
    """
    transform = getattr(task, "transform", None)
    if not isinstance(transform, FileTransform):
        raise UserError(
            f"inputs={inputs}: {type(task).__name__} has no transform that reads files; "
            "expected a split of its data: train, val or test"
        )
    return FileBatches(find_files(inputs, transform.extensions), transform, batch_size or BATCH_SIZE)


class FileBatches:
    """Yield batches ``(inputs, None)`` of the files that can be read.

    Threads decode the files. At most two batches of decoded files exist at a time.

    Attributes:
        names: paths of the files that were read, in the order of the samples.
        skipped: a line for each file that could not be read.
    """

    def __init__(self, paths: Sequence[str], transform: FileTransform, batch_size: int) -> None:
        self.paths = paths
        self.transform = transform
        self.batch_size = batch_size
        self.names: list[str] = []
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        samples: list[Tensor] = []
        for path, sample in _in_threads(self._read, self.paths, ahead=self.batch_size):
            if isinstance(sample, UserError):
                self.skipped.append(str(sample))
                continue
            self.names.append(as_text(path))
            samples.append(sample)
            if len(samples) == self.batch_size:
                yield self.transform(torch.stack(samples)), None
                samples = []
        if samples:
            yield self.transform(torch.stack(samples)), None

    def _read(self, path: str) -> Tensor | UserError:
        try:
            return self.transform.read(path)
        except UserError as error:
            return error


def _in_threads(read: Callable[[str], Any], paths: Iterable[str], ahead: int) -> Iterator[tuple[str, Any]]:
    """Yield each path with its result, in order. Read at most ``ahead`` of them in advance."""
    waiting: deque[tuple[str, Future[Any]]] = deque()
    with ThreadPoolExecutor() as pool:
        for path in paths:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for path, future in waiting:
            yield path, future.result()


def describe_failure(inputs: str, skipped: Sequence[str]) -> str:
    """Return why there is no prediction: no input can be read, or there is none."""
    if len(skipped) == 1:
        return skipped[0]
    if skipped:
        return f"inputs={inputs}: none of the {len(skipped):,} files can be read, such as {skipped[0]}"
    return f"inputs={inputs}: there is no sample; expected at least one"


def num_samples(batches: Iterable[Any]) -> int | None:
    """Return the number of samples, readable or not. Return None if it is unknown."""
    dataset = getattr(batches, "dataset", None)
    sized: Any = batches.paths if isinstance(batches, FileBatches) else getattr(batches, "split", dataset)
    sized = getattr(sized, "labels", sized)
    return len(sized) if hasattr(sized, "__len__") else None


def split_loader(split: str, task: LightningModule, data: LightningDataModule | None) -> Iterable[Any]:
    """Return the batches of ``train``, ``val`` or ``test`` in a fixed order.

    Raises:
        UserError: there is no such split, or its order is random.
    """
    if isinstance(data, OrderedData):
        return data.split_dataloader(split)
    owners = [owner for owner in (task, data) if owner is not None]  # the loaders of a data module replace the task's
    hooks = {name: f"{name}_dataloader" for name in ("val", "test")}
    available = {
        name: getattr(owner, hook) for owner in owners for name, hook in hooks.items() if is_overridden(hook, owner)
    }
    if split not in available:
        problem = (
            "has no split_dataloader, which reads the training data in a fixed order"
            if split == "train"
            else f"has no {split} data"
        )
        raise UserError(f"inputs={split}: {type(owners[-1]).__name__} {problem}; expected {_choices(available)}")
    loader = available[split]()
    if isinstance(loader, list | tuple | dict):
        raise UserError(
            f"inputs={split}: {type(owners[-1]).__name__} has {len(loader)} loaders of this split; expected one"
        )
    return loader


def _choices(names: Iterable[str]) -> str:
    return " or ".join(names) or "data with a val_dataloader or a test_dataloader"
