"""The trial of a study that a process runs."""

import optuna
import pytest
from optuna.trial import TrialState

from blitz.runs import trial as trials
from blitz.runs.trial import running_trial


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a study with three trials that reached 0.9, and a fourth that this process runs."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=trials.open_storage(url), study_name="a b", direction="maximize")
    for _ in range(3):
        trial = study.ask()
        trial.report(0.9, 1)
        study.tell(trial, 0.9)
    trial = study.ask()
    for name, value in ((trials.STORAGE, url), (trials.STUDY, "a b"), (trials.NUMBER, str(trial.number))):
        monkeypatch.setenv(name, value)
    return study


def median():
    return optuna.pruners.MedianPruner(n_startup_trials=1)


def test_process_without_a_trial():
    assert running_trial(median) is None


def test_worse_trial_is_to_be_pruned(study):
    trial = running_trial(median)
    assert trial is not None
    trial.report(1, 0.95)
    assert not trial.should_prune()
    trial.report(2, 0.1)
    assert not trial.should_prune(), "no other trial has reached this step"
    assert study.trials[3].intermediate_values == {1: 0.95, 2: 0.1}
    assert study.trials[3].state is TrialState.RUNNING


def test_resumed_trial_reports_no_step_twice(study, recwarn):
    running_trial(median).report(1, 0.1)
    resumed = running_trial(median)
    resumed.report(1, 0.95)
    assert study.trials[3].intermediate_values == {1: 0.1}
    assert resumed.should_prune()
    assert not recwarn.list


def test_overrides_set_the_environment_of_a_job():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(trials.job_overrides("sqlite:////a b/it's.db", "a b")))
    assert {one.key_or_group: one.value() for one in parsed} == {
        "hydra.job.env_set.BLITZ_STUDY_STORAGE": "sqlite:////a b/it's.db",
        "hydra.job.env_set.BLITZ_STUDY": "a b",
        "hydra.job.env_set.BLITZ_TRIAL": "${hydra.job.num}",
    }
