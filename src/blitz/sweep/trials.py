"""The trials of a study as the jobs of a sweep: ask Optuna for the next one, and tell it how one ended."""

import json
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blitz.config.paths import shorten
from blitz.errors import UserError
from blitz.sweep.job import Job, Outcome
from blitz.sweep.search_space import Point, SearchSpace

if TYPE_CHECKING:
    import optuna

MAX_DEFERRED = 10  # trials that wait for the result of a running trial with the same values
RETRY_OF, POINT, DIRECTORY = "retry_of", "point", "directory"  # user attributes of a trial


class Trials:
    """The trials of a study, as the jobs of a sweep.

    A trial that a killed sweep left running is run again, under its number and in its directory, so that its job
    resumes. A trial that failed in an earlier call gets a new trial with the same values. A trial with the values of
    another one has the same directory: it waits for that one, and takes its result.

    Args:
        n_trials: trials of the study over all calls. A failed trial and its retry count as one.
        new_job: return the job of a trial from its number and values.
        sampler: return the sampler of the trial with this number.
        grid: the values of all trials. None: the sampler draws them.
        max_failures: start no trial after more than this number of failures. None: no limit.
    """

    def __init__(
        self,
        study: "optuna.Study",
        space: SearchSpace,
        objectives: Sequence[str],
        n_trials: int,
        new_job: Callable[[int, Point], Job],
        sampler: "Callable[[int], optuna.samplers.BaseSampler]",
        grid: Sequence[Point] | None = None,
        max_failures: int | None = None,
    ) -> None:
        self.num_failures = 0
        self._study, self._space, self._objectives = study, space, objectives
        self._new_job, self._sampler = new_job, sampler
        self._grid, self._max_failures = grid, max_failures
        self._told: set[int] = set()  # trials with a result from an earlier call
        self._known: deque[Job] = deque()  # jobs of the trials of earlier calls
        self._running: set[Path] = set()
        self._deferred: list[Job] = []
        self._to_retry: list[optuna.trial.FrozenTrial] = []
        self._cut_off: list[int] = []  # trials without values: the sweep was killed while the sampler drew them
        self._read(n_trials)

    def _read(self, n_trials: int) -> None:
        """Sort the trials of earlier calls."""
        found = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in found}
        unfinished = []
        for trial in found:
            if trial.number in retried:
                continue
            if trial.state.name in ("COMPLETE", "PRUNED"):
                self._told.add(trial.number)
                job = self._new_job(trial.number, trial.params)
                if job.finished():  # its directory was not deleted
                    self._known.append(job)
            elif trial.state.name == "FAIL":
                self._to_retry += [trial] if self._point(trial) else []
            elif trial.state.name == "RUNNING" and self._space.contains(trial.params):
                unfinished.append(trial)
            elif trial.state.name == "RUNNING":
                self._cut_off.append(trial.number)
                self._to_retry += [trial] if self._point(trial) else []
        unfinished = unfinished[: max(0, n_trials - len(self._told))]
        self._known += [self._new_job(trial.number, trial.params) for trial in unfinished]
        self._to_ask = max(0, n_trials - len(self._told) - len(unfinished))
        self.total = len(self._known) + self._to_ask

    def _point(self, trial: "optuna.trial.FrozenTrial") -> Point | None:
        """Return the values of a trial, or None if it has none."""
        if self._space.contains(trial.params):
            return trial.params
        return trial.user_attrs.get(POINT)

    def next_job(self) -> Job | None:
        """Return the job of the next trial. Return None if there is none, or none before a running one has ended."""
        self._enqueue_retries()
        for job in self._deferred:
            if job.path not in self._running:
                self._deferred.remove(job)
                return self._run(job)
        while len(self._deferred) < MAX_DEFERRED:
            if self._known:
                job = self._known.popleft()
            elif self._to_ask and not self.too_many_failures():
                job = self._ask()
            else:
                return None
            if job.path not in self._running:
                return self._run(job)
            self._deferred.append(job)
        return None

    def too_many_failures(self) -> bool:
        """Return whether more trials have failed than ``max_failures``."""
        return self._max_failures is not None and self.num_failures > self._max_failures

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Tell the study the result of a trial. One that was interrupted stays open for the next call."""
        self._running.discard(job.path)
        if outcome.state in ("interrupted", "running") or job.number in self._told:
            return
        from optuna.trial import TrialState

        values = self._values(job) if outcome.state == "done" else None
        if values is not None:
            self._study.tell(job.number, values)
        elif outcome.state == "pruned":
            self._study.tell(job.number, state=TrialState.PRUNED)
        else:
            self._study.tell(job.number, state=TrialState.FAIL)
            self.num_failures += 1

    def _enqueue_retries(self) -> None:
        """Close the trials without values, and queue the values of those that failed in an earlier call."""
        from optuna.trial import TrialState

        while self._cut_off:
            self._study.tell(self._cut_off.pop(), state=TrialState.FAIL)
        for trial in self._to_retry[: self._to_ask]:
            self._enqueue(self._point(trial) or {}, {RETRY_OF: trial.number})
        self._to_retry = []

    def _enqueue(self, point: Point, attributes: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(point, user_attrs={POINT: point, **attributes})

    def _run(self, job: Job) -> Job:
        self._running.add(job.path)
        return job

    def _ask(self) -> Job:
        self._to_ask -= 1
        existing = self._study.get_trials(deepcopy=False)
        if self._grid is not None:
            begun = sum(RETRY_OF not in trial.user_attrs for trial in existing)
            for point in self._grid[begun : begun + 1]:
                self._enqueue(point, {})
        self._study.sampler = self._sampler(len(existing))
        trial = self._study.ask(dict(self._space.distributions))
        job = self._new_job(trial.number, trial.params)
        trial.set_user_attr(DIRECTORY, job.path.name)
        return job

    def _values(self, job: Job) -> list[float] | None:
        """Return the objectives of a finished job, or None if one of them is undefined.

        Raises:
            UserError: the run has no such metric.
        """
        metrics = json.loads((job.path / "metrics.json").read_text(encoding="utf-8"))
        for name in self._objectives:
            if name not in metrics:
                names = ", ".join(name for name in metrics if not name.startswith("test"))
                raise UserError(f"hydra.sweeper.objectives: the run has no metric {name}; expected one of {names}")
        values = [metrics[name] for name in self._objectives]
        if any(value is None or not math.isfinite(value) for value in values):
            text = ", ".join(f"{name} {value}" for name, value in zip(self._objectives, values, strict=True))
            print(f"failed: trial {job.number}: not finite: {text}; see {shorten(job.path)}", file=sys.stderr)
            return None
        return values
