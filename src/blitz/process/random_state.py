"""The state of every random generator of a process, in what ``torch.load(..., weights_only=True)`` reads."""

import random
from typing import Any

import numpy as np
import torch


def get() -> dict[str, Any]:
    state: Any = np.random.get_state()  # noqa: NPY002 - the global one, which other code draws from
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),  # torch cannot pickle a uint32
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def put(state: dict[str, Any]) -> None:
    """Devices that were not there when it was got, or are no longer, are left as they are."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for index, device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device, index)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
