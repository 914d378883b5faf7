"""Batch loader: indexes a split that lies on the device, or has worker processes fetch a split that does not fit."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from blitz.data.augment import Augmentation
from blitz.data.seeding import generator
from blitz.data.transforms import normalize
from blitz.errors import UserError
from blitz.process import signals

PARENT_CHECK_INTERVAL = 0.3  # seconds between a worker's checks that its parent is alive
GROUP = 128  # images prepared together if batches are smaller: for 4 images, the overhead of a call exceeds its work


class Images(Protocol):
    """Images of a split: a uint8 tensor ``(n, channels, size, size)``, or an object that decodes them on demand.

    The latter also has ``checksum() -> bytes``, a digest of the data that needs no decoding.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Tensor: ...


class Split(NamedTuple):
    """``images``: uint8 ``(m, channels, height, width)``; ``labels``: int64 ``(n,)``.

    ``rows``, int64 ``(n,)``, selects the split's images, so that training and validation share one tensor without a
    copy. None selects all of them in their order.

    ``source`` is a digest of the files that the images come from, decoded or not.
    """

    images: Images
    labels: Tensor
    rows: Tensor | None = None
    source: bytes | None = None

    def select(self, rows: Tensor) -> "Split":
        """Return a split of these ``rows`` of this one. The images are not copied."""
        return self._replace(labels=self.labels[rows], rows=rows if self.rows is None else self.rows[rows])

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the uint8 images and the labels of these ``rows`` of the split."""
        labels = self.labels[rows]
        rows = rows if self.rows is None else self.rows[rows]
        # index_select copies whole images, three times as fast as indexing.
        images = self.images.index_select(0, rows) if isinstance(self.images, Tensor) else self.images[rows]
        return images, labels


class Group(NamedTuple):
    """Parts of consecutive batches that this process fetches and prepares together.

    ``sizes`` is the number of images in each part; ``rows``, int64, are their rows in the split. If all parts are
    empty, ``rows`` still holds one row: the batches need a shape, and undecoded files have none.
    """

    rows: Tensor
    sizes: list[int]


class Loader:
    """Yield batches ``(images, labels)``: float32 ``(b, channels, size, size)`` and int64 ``(b,)``, on ``device``.

    Order and augmentation are a function of ``(seed, epoch)`` alone, however the images are fetched. Lightning sets the
    epoch through ``sampler.set_epoch``, as it does for a DataLoader with a distributed sampler. It saves ``state_dict``
    in its checkpoints: the number of batches that the epoch has yielded.

    With several processes, each yields its part of the batches that a single process would yield. A part is a
    contiguous slice; parts differ by at most one image, and the first ranks take the larger ones. All processes yield
    the same number of batches. Therefore a part of an epoch's last batch may be empty: see ``weight`` and ``is_empty``.

    Args:
        batch_size: number of images in a batch of all processes together.
        rank: index of this process among ``world_size`` processes.
        augment: augmentations, applied in this order. Workers apply those up to the last one whose attribute
            ``in_workers`` is true. This process applies the others, or all if there are no workers.
        workers: number of processes that fetch the images. With 0 this process indexes the split, which should then be
            on ``device`` already, unless its images are decoded on demand.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        *,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        augment: Sequence[Augmentation] = (),
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self._in_workers = _number_in_workers(augment) if workers else 0
        self.epoch = 0
        self._taken = self._start = 0
        self._work = _Work()
        self._workers = self._start_workers(workers) if workers else None

    @property
    def sampler(self) -> "Loader":
        return self

    @property
    def batch_sampler(self) -> "Loader":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return ``{"taken": n}``: the number of batches that the current epoch has yielded."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the first ``state["taken"]`` batches of the next iteration."""
        self._start = state["taken"]

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def weight(self, batch_idx: int) -> float:
        """Return the factor by which this process multiplies the mean loss over its part of a batch.

        The mean of the products over all processes is the mean loss over the whole batch, also if parts differ in size.
        The factor of an empty part is 0.
        """
        images = min(self.batch_size, len(self.split.labels) - batch_idx * self.batch_size)
        part = images // self.world_size + (self.rank < images % self.world_size)
        return self.world_size * part / images

    def is_empty(self, batch: tuple[Tensor, Tensor]) -> bool:
        """Return whether this process's part of a yielded batch holds no image."""
        return len(batch[1]) == 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator draws nothing before its first batch: Lightning sets the epoch after it calls iter().
        self._taken, self._start = self._start, 0
        draws = self._draws()
        groups = self._plan()
        for group, fetched in zip(groups, self._fetch(groups, draws), strict=True):
            for batch in self._prepare(group, *fetched, draws):
                self._taken += 1
                yield batch

    def _draws(self) -> list[Tensor]:
        """Return the epoch's random parameters of each augmentation, one row per image of the split."""
        n = len(self.split.labels)
        return [a.draw(n, self.seed + i, self.epoch).to(self.device) for i, a in enumerate(self.augment)]

    def _plan(self) -> list[Group]:
        """Return the groups that are left of the epoch."""
        size = max(1, GROUP // self.batch_size)
        batches = torch.split(self._order(), self.batch_size)[self._taken :]
        groups = []
        for first in range(0, len(batches), size):
            parts = [batch.tensor_split(self.world_size)[self.rank] for batch in batches[first : first + size]]
            rows, sizes = torch.cat(parts), [len(part) for part in parts]
            groups.append(Group(rows if len(rows) else batches[first][:1], sizes))
        return groups

    def _order(self) -> Tensor:
        """Return the rows of the split in the epoch's order."""
        n = len(self.split.labels)
        rng = generator(self.seed, "order", self.epoch)
        return (torch.randperm(n, generator=rng) if self.shuffle else torch.arange(n)).to(self.device)

    def _fetch(self, groups: Sequence[Group], draws: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the uint8 images and the labels of each group's rows, on the device. Workers also augment them."""
        if self._workers is None:
            for group in groups:
                images, labels = self.split.take(group.rows.to(self.split.labels.device))
                yield images.to(self.device), labels.to(self.device)
            return
        of_workers = [drawn.cpu() for drawn in draws[: self._in_workers]]
        rows = [group.rows.cpu() for group in groups]
        self._work.items = [(part, [drawn[part] for drawn in of_workers]) for part in rows]
        with signals.blocked():  # workers start in the first epoch; ``ignore_signals`` must run before a signal
            batches: Iterator[Any] = iter(self._workers)
        for fetched in batches:
            if isinstance(fetched, UserError):
                raise fetched
            images, labels = fetched
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _prepare(
        self, group: Group, images: Tensor, labels: Tensor, draws: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the group's batches, augmented and normalized."""
        first = self._in_workers
        images = _augmented(images, self.augment[first:], [drawn[group.rows] for drawn in draws[first:]])
        n = sum(group.sizes)
        images, labels = normalize(images, self.mean, self.std)[:n], labels[:n]
        return zip(torch.split(images, group.sizes), torch.split(labels, group.sizes), strict=True)

    def _start_workers(self, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return a DataLoader over whole groups whose processes live as long as this loader."""
        return DataLoader(
            _Dataset(self.split, self.augment[: self._in_workers]),
            sampler=self._work,
            batch_size=None,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=True,
            generator=torch.Generator(),  # otherwise each epoch would draw a number from the global generator
            worker_init_fn=ignore_signals,
        )


Work = tuple[Tensor, list[Tensor]]  # rows of the split, and the random parameters of each augmentation for these rows


class _Work(Sampler[Work]):
    """The work of each group of the current epoch."""

    items: Sequence[Work] = ()

    def __iter__(self) -> Iterator[Work]:
        return iter(self.items)


class _Dataset(Dataset[Any]):
    """The split in a worker. It returns a UserError, because torch would add the worker's traceback to a raised one."""

    def __init__(self, split: Split, augment: Sequence[Augmentation]) -> None:
        self.split = split
        self.augment = augment

    def __getitem__(self, work: Work) -> tuple[Tensor, Tensor] | UserError:
        rows, draws = work
        try:
            images, labels = self.split.take(rows)
            return _augmented(images, self.augment, draws), labels
        except UserError as error:
            return error


def _number_in_workers(augment: Sequence[Augmentation]) -> int:
    """Return the number of augmentations up to the last one that workers should apply."""
    return max((i for i, one in enumerate(augment, start=1) if getattr(one, "in_workers", False)), default=0)


def _augmented(images: Tensor, augment: Sequence[Augmentation], draws: Sequence[Tensor]) -> Tensor:
    """Apply augmentations one after another, each with its random parameters for these images."""
    for augmentation, drawn in zip(augment, draws, strict=True):
        images = augmentation.apply(images, drawn)
    return images


def ignore_signals(_: int) -> None:
    """Keep a worker fetching until the run is saved: schedulers and terminals also send their signals to workers.

    torch ends workers by SIGTERM, so this signal still works if it comes from the parent process. A worker also ends
    soon after its parent, even if the parent was killed.
    """
    for number in signals.SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # elsewhere the sender is unknown, and SIGTERM from anyone ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signals.unblock()
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """End this process soon after its parent, or when its parent sends SIGTERM."""
    process = multiprocessing.parent_process()
    assert process is not None
    # On Windows getppid() never changes; elsewhere a worker that started later may keep the pipe to the parent open.
    while os.getppid() == parent and process.is_alive():
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(PARENT_CHECK_INTERVAL)
        elif (received := signal.sigtimedwait({signal.SIGTERM}, PARENT_CHECK_INTERVAL)) and received.si_pid == parent:
            break
    os._exit(0)
