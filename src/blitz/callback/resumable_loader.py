"""A training loader whose position within an epoch can be saved and restored exactly."""

from collections.abc import Callable, Iterator
from typing import Any

from blitz.process import random_state
from blitz.process.random_state import RandomState

Position = dict[str, Any]


class ResumableLoader:
    """Wrap any training loader and keep track of its position. All attributes are the wrapped loader's.

    A loader restores itself if its ``state_dict`` counts the batches under ``taken``, as ``blitz.data.loader.Loader``
    does. Any other, such as a plain ``DataLoader``, has its order from the random state in which its iterator was
    made. So that state is restored, a new iterator is made, and the finished batches are fetched and dropped.

    Two states are needed: ``iter()`` draws the workers' seed, and if there are workers, the order. Without workers
    the sampler draws the order when the first batch is fetched.

    Args:
        before_fetch: called before each batch is fetched.
    """

    def __init__(self, loader: Any, before_fetch: Callable[[], None]) -> None:
        vars(self).update(loader=loader, before_fetch=before_fetch, batches=None, restored=None)

    @property
    def restores_itself(self) -> bool:
        return hasattr(self.loader, "load_state_dict") and "taken" in self.loader.state_dict()

    def position(self, batch_idx: int) -> Position:
        """Return the position before batch ``batch_idx`` of the epoch, which was fetched last."""
        batches: _Batches | None = vars(self)["batches"]
        if not batch_idx or self.restores_itself or batches is None:
            return {"taken": batch_idx}
        # A loader of unknown length is one batch ahead: Lightning fetches early, to know which batch is the last.
        taken = min(batches.taken - 1, batch_idx)
        return {"taken": taken, "made": batches.made, "first": batches.first}

    def restore(self, position: Position) -> None:
        """Let the next iterator begin at the position."""
        if self.restores_itself:
            self.loader.load_state_dict({**self.loader.state_dict(), "taken": position["taken"]})
        else:
            vars(self)["restored"] = position

    def __iter__(self) -> Iterator[Any]:
        restored, vars(self)["restored"] = vars(self)["restored"], None
        return _Batches(self, restored)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["loader"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # For example, Lightning shuts down persistent workers and resets the loader's iterator after a fit.
        setattr(self.loader, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The wrapped loader's class, so that ``isinstance(trainer.train_dataloader, DataLoader)`` holds."""
        return type(self.loader)


class _Batches(Iterator[Any]):
    """An iterator over the batches of an epoch.

    Attributes:
        made: random state before the loader's iterator was made.
        first: random state before its first batch was fetched.
        taken: number of batches fetched.
    """

    made: RandomState | None = None
    first: RandomState | None = None

    def __init__(self, owner: ResumableLoader, restored: Position | None) -> None:
        self.taken = 0
        self._owner = vars(owner)
        self._restored = restored
        if restored is None:
            self._make()

    def __next__(self) -> Any:
        # Only now, and not in __init__: Lightning makes the iterator before it sets the epoch of the sampler.
        if self._restored is not None:
            self._fast_forward(self._restored)
        self._owner["batches"] = self
        self._owner["before_fetch"]()
        return self._fetch()

    def _make(self) -> None:
        self.made = random_state.get()
        self._iterator = iter(self._owner["loader"])

    def _fetch(self) -> Any:
        if self.first is None:
            self.first = random_state.get()
        batch = next(self._iterator)
        self.taken += 1
        return batch

    def _fast_forward(self, position: Position) -> None:
        self._restored = None
        with random_state.preserved():
            if "made" in position:
                random_state.put(position["made"])
            self._make()
            if "first" in position:
                random_state.put(position["first"])
            for _ in range(position["taken"]):
                self._fetch()
