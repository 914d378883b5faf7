"""Batches: an index into a split that lives on the device, or worker processes where it is too large for that."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from blitz.data.augment import Augmentation
from blitz.data.seeding import generator
from blitz.data.transforms import normalize

GROUP = 128  # images prepared at once, where batches are smaller: of 4 images a call takes longer than what it does


class Images(Protocol):
    """What a uint8 tensor ``(n, channels, size, size)`` is, and what decodes its images when they are asked for.

    The latter also has ``checksum() -> bytes``, which tells the data from other data without decoding it.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Tensor: ...


class Split(NamedTuple):
    """``images``: uint8 ``(m, channels, size, size)``; ``labels``: int64 ``(n,)``.

    ``rows``, int64 ``(n,)``, says which of the images are the split's: training and validation are two parts of one
    tensor, and no copies of it. None: all of them, in their order.
    """

    images: Images
    labels: Tensor
    rows: Tensor | None = None

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images and labels of the split's ``rows``."""
        labels = self.labels[rows]
        rows = rows if self.rows is None else self.rows[rows]
        # index_select copies whole images, three times as fast as indexing.
        images = self.images.index_select(0, rows) if isinstance(self.images, Tensor) else self.images[rows]
        return images, labels


class Loader:
    """Batches ``(images, labels)``: float32 ``(b, channels, size, size)`` and int64 ``(b,)``, on ``device``.

    Order and augmentation are a function of ``(seed, epoch)`` alone, and the same however the images are fetched.
    Lightning tells the epoch through ``sampler.set_epoch``, as it does for a DataLoader with a distributed sampler, and
    keeps ``state_dict`` in its checkpoints: how many batches of the epoch have been handed out.

    Of several processes each yields its part of the batches that one process would yield: neighbours, as even as can
    be, the first processes taking the odd ones. All yield the same number of batches, so that of an epoch's last one,
    where it has fewer images than there are processes, some yield none.

    Args:
        batch_size: of all processes together.
        rank: which of the ``world_size`` processes this is.
        workers: processes that fetch the images; with 0 an index does, and the split is best on ``device`` already.
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
        self.epoch = 0
        self._taken = self._start = 0
        self._sampler = _Rows()
        self._workers = None
        if workers:  # they live as long as the loader, and each fetches whole batches
            self._workers = DataLoader(
                _Dataset(split),
                sampler=self._sampler,
                batch_size=None,
                num_workers=workers,
                pin_memory=self.device.type == "cuda",
                persistent_workers=True,
                generator=torch.Generator(),  # of its own: it would take a number of the global one each epoch
                worker_init_fn=_deaf,
            )

    @property
    def sampler(self) -> "Loader":
        return self

    @property
    def batch_sampler(self) -> "Loader":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._start = state["taken"]

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def weight(self, index: int) -> float:
        """What this process's mean over its images of batch ``index`` counts in the mean over the processes.

        That mean of means, so weighed, is the mean over the batch, however uneven its parts are.
        """
        images = min(self.batch_size, len(self.split.labels) - index * self.batch_size)
        ours = images // self.world_size + (self.rank < images % self.world_size)
        return self.world_size * ours / images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so that nothing is drawn before the first batch: Lightning sets the epoch after it calls iter().
        n = len(self.split.labels)
        draws = [a.draw(n, self.seed + i, self.epoch).to(self.device) for i, a in enumerate(self.augment)]
        self._taken, self._start = self._start, 0
        size = max(1, GROUP // self.batch_size)
        done, skip = divmod(self._taken, size)  # groups begin where they do in a whole epoch
        batches = self._batches()[done * size :]
        groups = [batches[first : first + size] for first in range(0, len(batches), size)]
        ours = [[batch.tensor_split(self.world_size)[self.rank] for batch in group] for group in groups]
        # Where there is nothing to yield one image is fetched all the same: files that are not read have no shape.
        rows = [torch.cat(part) for part in ours]
        rows = [here if len(here) else group[0][:1] for here, group in zip(rows, groups, strict=True)]
        for part, here, (images, labels) in zip(ours, rows, self._fetch(rows), strict=True):
            for augmentation, drawn in zip(self.augment, draws, strict=True):
                images = augmentation.apply(images, drawn[here])
            sizes = [len(batch) for batch in part]
            images, labels = normalize(images, self.mean, self.std)[: sum(sizes)], labels[: sum(sizes)]
            for pair in list(zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True))[skip:]:
                self._taken += 1
                yield pair
            skip = 0

    def _batches(self) -> Sequence[Tensor]:
        """The epoch's batches, as rows of the split."""
        n = len(self.split.labels)
        rng = generator(self.seed, "order", self.epoch)
        order = torch.randperm(n, generator=rng) if self.shuffle else torch.arange(n)
        return torch.split(order.to(self.device), self.batch_size)

    def _fetch(self, rows: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        if self._workers is None:
            return (self.split.take(here) for here in rows)
        self._sampler.rows = [here.cpu() for here in rows]
        return ((x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)) for x, y in self._workers)


def _deaf(_: int) -> None:
    """Schedulers and terminals send signals to workers too, which are to fetch on until the run has been saved."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # by SIGTERM torch ends them; elsewhere by anybody's
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _Rows(Sampler[Tensor]):
    """The rows of each batch of the epoch at hand."""

    rows: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows)


class _Dataset(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.take(rows)
