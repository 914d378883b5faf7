"""What the processes of a run want, put together without any of them waiting."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, distributed


class Agreement:
    """Each call hands in wishes and tells which of them any process had in the call before, in all processes alike.

    So a GPU is never waited for, and another process only if it is a whole step behind. In a run of one process what is
    handed in is what is told.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._group: Any = distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        self._round: tuple[Any, Tensor] | None = None

    def __call__(self, *wishes: bool) -> list[bool]:
        if self._group is None:
            return list(wishes)
        agreed = self.close() or [False] * len(wishes)
        sent = torch.tensor(wishes, dtype=torch.int32)
        work = distributed.all_reduce(sent, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._round = work, sent
        return agreed

    def close(self) -> list[bool]:
        """The last call's wishes."""
        if self._round is None:
            return []
        (work, sent), self._round = self._round, None
        work.wait()
        return [bool(wish) for wish in sent.tolist()]
