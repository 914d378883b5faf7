"""Lightning's fit loop, with a place between two steps at which a run can be left and taken up again.

Lightning's hooks lie within a step or an epoch: when they are called, figures are still to be logged or a validation is
due, and a run saved there does not go on as it would have. ``Keeper.pause`` is called where nothing is open: after a
step, its validation and its logging, and after an epoch.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from lightning import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class Keeper(Protocol):
    """What saves a run in its pauses and takes it up again: ``callback.last_checkpoint.LastCheckpoint``."""

    def on_duty(self) -> AbstractContextManager[None]: ...

    def restore_random(self) -> None: ...

    def pause(self) -> None: ...


class FitLoop(_FitLoop):
    """Takes the place of the one that ``trainer`` has."""

    def __init__(self, trainer: Trainer, keeper: Keeper) -> None:
        was = trainer.fit_loop
        super().__init__(trainer, was.min_epochs, was.max_epochs)
        self.epoch_loop = EpochLoop(trainer, was.min_steps, was.max_steps, keeper)
        self._keeper = keeper

    @_Loop.restarting.setter  # type: ignore[attr-defined, untyped-decorator]
    def restarting(self, restarting: bool) -> None:
        # Lightning's is also true after a whole epoch, where trainer.max_steps is set, and then ends that epoch again.
        progress = self.epoch_progress.current
        _Loop.restarting.fset(self, restarting and progress.ready != progress.processed)  # type: ignore[attr-defined]

    def run(self) -> None:
        with self._keeper.on_duty():
            super().run()

    def on_advance_start(self) -> None:
        # A schedule that asks for the number of steps has the loader made before Lightning has read its state.
        self._load_combined_loader_states()
        self._keeper.restore_random()
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        self._keeper.pause()


class EpochLoop(_TrainingEpochLoop):
    """One epoch."""

    def __init__(self, trainer: Trainer, min_steps: int | None, max_steps: int, keeper: Keeper) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._keeper = keeper

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:
            self.trainer.fit_loop.restarting = False  # no validation or epoch's end was left open
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        if not (self._is_training_done or self._should_accumulate() or self.trainer.should_stop):
            self._keeper.pause()
