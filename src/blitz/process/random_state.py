"""State of all random generators of a process, in types that ``torch.load(..., weights_only=True)`` accepts."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]


def get() -> RandomState:
    """Return the state. This takes about 40 µs, most of it for NumPy's generator."""
    state: Any = np.random.get_state()  # noqa: NPY002 - the global generator, which other code draws from
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),  # torch.load accepts no uint32 array
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def put(state: RandomState) -> None:
    """Restore the state. A device that exists only in the state or only on this machine is skipped."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for index, device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device, index)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the state at the end of the block."""
    state = get()
    try:
        yield
    finally:
        put(state)
