"""A training loader whose position within an epoch can be saved and restored exactly."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from blitz.process import random_state

Position = dict[str, Any]


class ResumableLoader:
    """Wrap any training loader and keep track of its position. All attributes are the wrapped loader's.

    A loader with ``state_dict``, such as ``blitz.data.loader.Loader`` or torchdata's ``StatefulDataLoader``, restores
    itself. The order of any other, such as a plain ``DataLoader``, follows from the random state in which its iterator
    was made. This state is restored, a new iterator is made, and the finished batches are fetched and dropped.

    Two states are needed: ``iter()`` draws the workers' seed, and if there are workers, the order. Without workers
    the sampler draws the order when the first batch is fetched.

    Args:
        before_fetch: called before each batch is fetched.
    """

    def __init__(self, loader: Any, before_fetch: Callable[[], None]) -> None:
        vars(self).update(loader=loader, before_fetch=before_fetch, current={}, restored=None, used=False)

    @property
    def restores_itself(self) -> bool:
        return hasattr(self.loader, "state_dict") and hasattr(self.loader, "load_state_dict")

    @property
    def repeats(self) -> bool:
        """Whether finished batches are fetched again from an ``IterableDataset``, which may yield other batches."""
        return not self.restores_itself and isinstance(getattr(self.loader, "dataset", None), IterableDataset)

    def position(self, between_epochs: bool) -> Position:
        """Return the position within the epoch. Between two epochs the next iterator does not exist yet."""
        if between_epochs:
            return {"generators": self.generator_states()}
        if self.restores_itself:
            return {"generators": self.generator_states(), "state": copy.deepcopy(self.loader.state_dict())}
        return dict(vars(self)["current"])

    def restore(self, position: Position) -> None:
        """Let the next iterator begin at a position within an epoch."""
        if self.restores_itself:
            # Absent in checkpoints of earlier versions. Some loaders start workers to return a state.
            state = position["state"] if "state" in position else self.loader.state_dict()
            counts = {"taken": position["taken"]} if "taken" in state else {}  # the batch of the open step is fetched
            self.loader.load_state_dict({**state, **counts})
        else:
            vars(self)["restored"] = position

    def generator_states(self) -> list[Tensor]:
        """Return the states of the generators that the loader and its sampler were made with."""
        return [generator.get_state() for generator in self._generators()]

    def put_generator_states(self, states: Iterable[Tensor]) -> None:
        for generator, state in zip(self._generators(), states, strict=False):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        owners = (self.loader, getattr(self.loader, "sampler", None))
        found = (getattr(owner, "generator", None) for owner in owners)
        return [generator for generator in found if isinstance(generator, torch.Generator)]

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

    def __eq__(self, other: object) -> bool:
        return bool(
            self.loader == vars(other).get("loader") if type(other) is ResumableLoader else self.loader == other
        )

    def __hash__(self) -> int:
        return hash(self.loader)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy the loader alone."""
        return self.loader.__reduce_ex__(protocol)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The wrapped loader's class, so that ``isinstance(trainer.train_dataloader, DataLoader)`` holds."""
        return type(self.loader)


class _Batches(Iterator[Any]):
    """An iterator over the batches of an epoch.

    Its position is a dictionary of its own, so that the loader does not keep the iterator, and its workers, alive:

    - taken: number of batches fetched.
    - made: random state before the loader's iterator was made.
    - first: random state before its first batch was fetched.
    - reuses_workers: whether persistent workers of an earlier epoch fetch them. Then ``iter()`` draws no seed.
    """

    def __init__(self, owner: ResumableLoader, restored: Position | None) -> None:
        self._owner = owner
        self._restored = restored
        self._position: Position = {"taken": 0}
        if restored is None:
            self._make()

    def __next__(self) -> Any:
        # Only now, and not in __init__: Lightning makes the iterator before it sets the epoch of the sampler.
        if self._restored is not None:
            self._fast_forward(self._restored)
        vars(self._owner)["before_fetch"]()
        vars(self._owner)["current"] = self._position
        return self._fetch()

    def _make(self) -> None:
        owner = vars(self._owner)
        self._position["reuses_workers"] = owner["used"] and getattr(owner["loader"], "persistent_workers", False)
        self._position["made"] = self._random_state()
        self._iterator = iter(owner["loader"])
        owner["used"] = True

    def _fetch(self) -> Any:
        if "first" not in self._position:
            self._position["first"] = self._random_state()
        batch = next(self._iterator)
        self._position["taken"] += 1
        return batch

    def _random_state(self) -> Position:
        return {"global": random_state.get(), "generators": self._owner.generator_states()}

    def _fast_forward(self, position: Position) -> None:
        self._restored = None
        with random_state.preserved():
            if position.get("reuses_workers"):
                self._make()  # starts the workers
            self._put(position.get("made"))
            self._make()
            self._put(position.get("first"))
            for _ in range(position["taken"]):
                self._fetch()

    def _put(self, state: Position | None) -> None:
        if state is not None:
            random_state.put(state["global"])
            self._owner.put_generator_states(state["generators"])
