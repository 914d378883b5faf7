"""Trials of a study: what is asked and told, with an executor that trains nothing."""

import json
from contextlib import contextmanager

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from blitz.errors import UserError
from blitz.sweep.job import Job, Outcome
from blitz.sweep.runner import run_jobs
from blitz.sweep.search_space import SearchSpace
from blitz.sweep.study import StudySweeper
from blitz.sweep.trials import Trials

FLOATS = SearchSpace({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}, [])
CHOICES = SearchSpace({"x": CategoricalDistribution(["1", "2", "3"])}, [])


class Killed(BaseException):
    """Stands for a SIGKILL of the process of the sweep: nothing handles it."""


class Display:
    @contextmanager
    def _entered(self):
        yield

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, job): ...
    def end(self, job, outcome, was_run): ...
    def refresh(self): ...


class Study:
    """A study whose calls share a storage and a directory, like those of the same command.

    Args:
        result: returns the metrics of a job, or its outcome if it does not finish.
    """

    def __init__(self, tmp_path, space, result, sampler="random", objectives=("value",), directions=("maximize",)):
        self.tmp_path, self.space, self.result, self.objectives = tmp_path, space, result, list(objectives)
        self.sampler_of = StudySweeper(sampler=sampler)._sampler_of
        self.grid = space.grid() if sampler == "grid" else None
        self.study = optuna.create_study(directions=directions)
        self.started = []  # the numbers of all jobs that ran, and the values
        self.running = {}
        self.most_running = 0

    slots = 1

    def call(self, n_trials, slots=1, max_failures=None):
        self.slots, self.running = slots, {}
        self.trials = Trials(
            self.study, self.space, self.objectives, n_trials, self.new_job, self.sampler_of, self.grid, max_failures
        )
        run_jobs(self, Display(), self.trials.next_job, self.trials.ended)
        return self.trials

    def new_job(self, number, point):
        name = "_".join(f"{key}-{value}" for key, value in sorted(point.items()))
        return Job(number, self.space.overrides(point), name, self.tmp_path / name, self.objectives[0])

    def start(self, job):
        assert job.path not in [other.path for other in self.running.values()], "two jobs in one directory"
        job.path.mkdir(exist_ok=True)
        self.started.append((job.number, job.path.name))
        self.running[job.number] = job
        self.most_running = max(self.most_running, len(self.running))

    def wait(self, seconds):
        """End the newest job."""
        number = max(self.running)
        result = self.result(len(self.started), number)
        job = self.running.pop(number)
        if isinstance(result, Outcome):
            return [(job, result)]
        (job.path / "metrics.json").write_text(json.dumps(result))
        return [(job, Outcome("done", result.get("value")))]

    def stop(self): ...
    def close(self): ...

    def states(self):
        return [trial.state.name for trial in self.study.trials]


def killed_at(*times):
    """Return a result that kills the sweep at the given counts of started jobs, once each."""
    left = set(times)

    def result(count, number):
        if count in left:
            left.remove(count)
            raise Killed
        return {"value": number / 10}

    return result


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "grid"])
def test_killed_study_ends_with_exactly_n_trials_and_the_points_of_an_uninterrupted_one(tmp_path, sampler):
    space = CHOICES if sampler == "grid" else FLOATS
    total = 3 if sampler == "grid" else 14
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Study(tmp_path / "a", space, killed_at(), sampler)
    whole.call(total)
    killed = Study(tmp_path / "b", space, killed_at(2, 3, 13), sampler)
    for _ in range(2 if sampler == "grid" else 3):
        with pytest.raises(Killed):
            killed.call(total)
    killed.call(total)
    assert killed.states() == ["COMPLETE"] * total
    assert [trial.params for trial in killed.study.trials] == [trial.params for trial in whole.study.trials]
    assert killed.started[1] == killed.started[2], "the killed trial runs again under its number, in its directory"


def test_trial_that_ended_while_nobody_listened_is_told_and_not_run_again(tmp_path):
    study = Study(tmp_path, FLOATS, killed_at(2))
    with pytest.raises(Killed):
        study.call(3, slots=2)
    (job,) = (study.new_job(trial.number, trial.params) for trial in study.study.trials[:1])
    (job.path / "metrics.json").write_text('{"value": 0.75}')
    study.call(3)
    assert study.study.trials[0].value == 0.75
    assert [number for number, _ in study.started] == [0, 1, 1, 2]


def test_failed_and_undefined_results_are_recorded_and_retried_by_the_next_call_only(tmp_path, capsys):
    results = {1: Outcome("failed", reason="it raised"), 2: {"value": None}}
    study = Study(tmp_path, FLOATS, lambda count, number: results.get(number, {"value": number}))
    assert study.call(4).num_failures == 2
    assert study.states() == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert "failed: trial 2: not finite: value None" in capsys.readouterr().err
    (study.new_job(2, study.study.trials[2].params).path / "metrics.json").unlink()
    assert study.call(4).total == 4
    assert study.states() == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    params = [trial.params for trial in study.study.trials]
    assert (params[4], params[5]) == (params[1], params[2])
    study.call(4)
    assert len(study.started) == len(study.study.trials) == 6, "nothing is left to do"


def test_trial_that_was_cut_off_before_it_had_values_does_not_count(tmp_path):
    study = Study(tmp_path, FLOATS, lambda count, number: {"value": 1})
    trial = study.study.ask()
    trial.suggest_float("x", 0, 1)  # the sweep was killed before it had y
    study.call(2)
    assert study.states() == ["FAIL", "COMPLETE", "COMPLETE"]


def test_pruned_trials_count_and_are_not_run_again(tmp_path):
    outcomes = {1: Outcome("pruned", reason="worse")}
    study = Study(tmp_path, FLOATS, lambda count, number: outcomes.get(number, {"value": number}))
    study.call(3)
    assert study.states() == ["COMPLETE", "PRUNED", "COMPLETE"]
    (study.new_job(1, study.study.trials[1].params).path / "status.json").write_text('{"state": "pruned"}')
    study.call(4)
    assert study.states() == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert len(study.started) == 4


def test_max_failures_stops_the_study(tmp_path):
    study = Study(tmp_path, FLOATS, lambda count, number: Outcome("failed"))
    assert study.call(9, max_failures=1).too_many_failures()
    assert study.states() == ["FAIL", "FAIL"]
    assert not Study(tmp_path, FLOATS, lambda count, number: {"value": 1}).call(2, max_failures=0).too_many_failures()


def test_interrupted_trials_stay_open(tmp_path):
    study = Study(tmp_path, FLOATS, lambda count, number: Outcome("interrupted" if count == 2 else "running"))
    study.call(2, slots=2)
    assert study.states() == ["RUNNING", "RUNNING"]
    study.result = lambda count, number: {"value": 1}
    study.call(2)
    assert study.states() == ["COMPLETE", "COMPLETE"]


def test_slow_trial_does_not_block_the_others(tmp_path):
    """The newest job always ends first, so trial 0 runs until all others are done."""
    ended = []
    study = Study(tmp_path, FLOATS, lambda count, number: ended.append(number) or {"value": 1})
    study.call(6, slots=2)
    assert ended == [1, 2, 3, 4, 5, 0]
    assert study.most_running == 2


def test_equal_points_share_a_result(tmp_path):
    """Only three points exist. A trial with those of a running one waits, while other trials use its place."""
    study = Study(tmp_path, CHOICES, lambda count, number: {"value": count})
    study.call(20, slots=2)
    assert study.states() == ["COMPLETE"] * 20
    assert len(study.started) == 3
    values = {(trial.params["x"], trial.value) for trial in study.study.trials}
    assert len(values) == 3


def test_study_can_grow(tmp_path):
    study = Study(tmp_path, FLOATS, lambda count, number: {"value": 1})
    study.call(2)
    assert study.call(5).total == 5
    assert study.states() == ["COMPLETE"] * 5
    assert study.call(3).total == 5, "a smaller number removes no trial"


def test_grid_visits_each_point_once(tmp_path):
    space = SearchSpace({**CHOICES.distributions, "y": CategoricalDistribution(["a", "b"])}, [])
    study = Study(tmp_path, space, lambda count, number: {"value": 1}, sampler="grid")
    study.call(2)
    study.call(6, slots=2)
    assert len({tuple(trial.params.values()) for trial in study.study.trials}) == len(study.study.trials) == 6


def test_several_objectives(tmp_path):
    study = Study(
        tmp_path, FLOATS, lambda count, number: {"acc": number, "loss": 3 - number, "time": number}, sampler="tpe",
        objectives=("acc", "time"), directions=("maximize", "minimize"),
    )  # fmt: skip
    study.call(3)
    assert [trial.values for trial in study.study.trials] == [[0, 0], [1, 1], [2, 2]]
    assert len(study.study.best_trials) == 3


def test_unknown_metric_is_refused(tmp_path):
    study = Study(tmp_path, FLOATS, lambda count, number: {"val/acc": 1, "test/acc": 2})
    with pytest.raises(UserError, match=r"objectives: the run has no metric value; expected one of val/acc$"):
        study.call(3)
