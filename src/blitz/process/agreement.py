"""Flags that all ranks of a run agree on, without any of them waiting."""

from typing import Any

import torch
from torch import Tensor, distributed


class Agreement:
    """Return, on every rank, the flags that any rank raised in the previous call. Call it equally often on every rank.

    No rank waits for a GPU, and it waits for another rank only if that one is a whole step behind. With one process,
    a call returns its own flags.
    """

    def __init__(self, world_size: int) -> None:
        self._group: Any = distributed.new_group(backend="gloo") if world_size > 1 else None
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, *flags: bool) -> list[bool]:
        if self._group is None:
            return list(flags)
        agreed = self.close() or [False] * len(flags)
        sent = torch.tensor(flags, dtype=torch.int32)
        work = distributed.all_reduce(sent, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._pending = work, sent
        return agreed

    def now(self, *flags: bool) -> list[bool]:
        """Return the flags that any rank raises in this call. It waits for all ranks."""
        own = self(*flags)
        return self.close() or own

    def close(self) -> list[bool]:
        """Return the flags of the last call, if its result was not returned yet."""
        if self._pending is None:
            return []
        (work, sent), self._pending = self._pending, None
        work.wait()
        return [bool(flag) for flag in sent.tolist()]
