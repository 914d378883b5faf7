"""The trial of an Optuna study that a process runs: how its job finds it, and reports to it."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from blitz.config.paths import as_hydra_text
from blitz.errors import UserError

if TYPE_CHECKING:
    import optuna

STORAGE, STUDY, NUMBER = "BLITZ_STUDY_STORAGE", "BLITZ_STUDY", "BLITZ_TRIAL"  # environment variables of a job
INSTALL = "python -m uv pip install -e '.[optuna]'"


def job_overrides(storage: str, study: str) -> Sequence[str]:
    """Return the overrides by which a job finds its trial, whose number is that of the job.

    They set environment variables: the config of a job, which names its directory, stays the same.
    """
    prefix = "++hydra.job.env_set"
    return [
        f"{prefix}.{STORAGE}={as_hydra_text(storage)}",
        f"{prefix}.{STUDY}={as_hydra_text(study)}",
        f"{prefix}.{NUMBER}='${{hydra.job.num}}'",
    ]


def open_storage(url: str) -> "optuna.storages.RDBStorage":
    """Open the database of studies.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(f"hydra/sweeper=optuna: Optuna is not installed; install it with: {INSTALL}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Jobs write at the same time: wait for each other instead of failing after 5 seconds.
    options = {"connect_args": {"timeout": 100}} if url.startswith("sqlite:") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


class RunningTrial:
    """The trial that this process runs.

    Args:
        pruner: decides by the reported values whether the trial is worth its time.
    """

    def __init__(self, storage: str, study: str, number: int, pruner: "optuna.pruners.BasePruner") -> None:
        import optuna

        self._storage = open_storage(storage)
        sampler = optuna.samplers.RandomSampler()  # samples nothing: the trial has its values
        loaded = optuna.load_study(study_name=study, storage=self._storage, sampler=sampler, pruner=pruner)
        study_id = self._storage.get_study_id_from_name(study)
        self._id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self._trial = optuna.trial.Trial(loaded, self._id)

    def report(self, step: int, value: float) -> None:
        """Report a value, unless the trial has one for this step: it was resumed from an earlier one."""
        if step not in self._storage.get_trial(self._id).intermediate_values:
            self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Return whether the last value is worse than those of other trials."""
        return self._trial.should_prune()


def running_trial(pruner: "Callable[[], optuna.pruners.BasePruner]") -> RunningTrial | None:
    """Return the trial that this process runs, or None if it runs none.

    Args:
        pruner: return the pruner of the trial.
    """
    if NUMBER not in os.environ:
        return None
    return RunningTrial(os.environ[STORAGE], os.environ[STUDY], int(os.environ[NUMBER]), pruner())
