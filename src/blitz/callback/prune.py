"""Stop the trials of a study that are worse than the others."""

from functools import partial
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from blitz.errors import PrunedError, UserError
from blitz.runs.trial import RunningTrial, running_trial

PRUNERS = ("median", "hyperband")


class Prune(Callback):
    """Report a metric to the study after each validation, and end the run if the study's pruner says so.

    Outside a study it does nothing, so that a trial can be resumed or repeated as a run of its own.

    Args:
        monitor: name of the metric.
        pruner: ``median``, ``hyperband``, or a pruner of Optuna.

    Raises:
        UserError: ``pruner`` is none of these.
    """

    def __init__(self, monitor: str, pruner: Literal["median", "hyperband"] | object = "median") -> None:
        if pruner not in PRUNERS and not hasattr(pruner, "prune"):
            raise UserError(
                f"callback.prune.pruner={pruner}: no such pruner; expected {' or '.join(PRUNERS)}, or a _target_ of "
                "optuna.pruners"
            )
        self.monitor = monitor
        self.pruner = pruner
        self._num_reports = 0
        self._trial: RunningTrial | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._trial = running_trial(partial(_pruner, self.pruner, trainer.max_epochs))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn is not TrainerFn.FITTING:
            return
        self._num_reports += 1
        ends = self._trial is not None and self._is_worse(self._trial, trainer)
        if trainer.strategy.broadcast(ends):
            value = float(trainer.callback_metrics[self.monitor])
            raise PrunedError(f"{self.monitor} {value:.4g} in epoch {trainer.current_epoch + 1}")

    def _is_worse(self, trial: RunningTrial, trainer: Trainer) -> bool:
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "any"
            raise UserError(f"callback.prune.monitor={self.monitor}: not logged; expected one of {logged}")
        trial.report(self._num_reports, float(trainer.callback_metrics[self.monitor]))
        return trial.should_prune()

    def state_dict(self) -> dict[str, Any]:
        return {"num_reports": self._num_reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_reports = state_dict["num_reports"]


def _pruner(pruner: Any, max_epochs: int | None) -> Any:
    """Return a pruner for the trial of this process."""
    if pruner not in PRUNERS:
        return pruner
    import optuna

    if pruner == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.HyperbandPruner(max_resource="auto" if max_epochs in (None, -1) else max_epochs)
