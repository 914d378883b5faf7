"""The number of samples in a batch of any kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def num_samples(batch: Any) -> int:
    """Return the length of the first tensor of a batch; 0 if it has none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 1
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return 0
    return next((size for value in values if (size := num_samples(value))), 0)
