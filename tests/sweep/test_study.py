"""Studies with Optuna: of real runs on the digits, killed and pruned, and the settings of the command line."""

import json
import re
import sys

import optuna
import pytest

from blitz.cli import app
from blitz.errors import UserError
from blitz.runs.status import read_status
from blitz.sweep import launcher
from blitz.sweep.job import Outcome
from blitz.sweep.study import StudySweeper
from tests import processes
from tests.conftest import error_of
from tests.sweep.test_launcher import FORKED, SABOTAGE, arguments, wait_for

optuna.logging.set_verbosity(optuna.logging.ERROR)
RATES = "optimizer.lr=interval(0.001,0.1)"
FAKE = ("-m", "device=cpu", "seed=1", "hydra/sweeper=optuna", "hydra.sweeper.sampler=random")


def trials_of(directory):
    (study,) = optuna.get_all_study_names(storage := f"sqlite:///{directory / 'study.db'}")
    return optuna.load_study(study_name=study, storage=storage).trials


def states(directory):
    return [trial.state.name for trial in trials_of(directory)]


def study(directory, *swept):
    return arguments(directory, "seed=1", "hydra/sweeper=optuna", "hydra.launcher.n_jobs=2", *swept)


def test_study_that_is_killed_twice_ends_with_exactly_n_trials(tmp_path):
    """The first attempt of each trial hangs. Each kill meets two of them, and each call resumes the two before."""
    directory = tmp_path / "sweep"
    command = study(directory, RATES, SABOTAGE, "+callback.sabotage.how=hang", "hydra.sweeper.n_trials=4")
    for hanging in (2, 4):
        process = processes.start(FORKED, *command)
        wait_for(lambda hanging=hanging: len(list(directory.glob("*/sabotaged"))) == hanging)
        process.kill()
        process.communicate()
        assert states(directory) == ["COMPLETE"] * (hanging - 2) + ["RUNNING"] * 2
    done = processes.run(FORKED, *command, timeout=300)
    assert done.returncode == 0, done.stderr
    assert states(directory) == ["COMPLETE"] * 4
    assert len(list(directory.glob("*/metrics.json"))) == 4
    for trial in trials_of(directory):
        run = directory / trial.user_attrs["directory"]
        assert trial.value == json.loads((run / "metrics.json").read_text())["val/acc"]
        assert "resumed        after step" in (run / "output.log").read_text()
    best = max(trials_of(directory), key=lambda trial: trial.value)
    assert "\nstudy          4 trials: 4 done\n" in done.stdout
    assert re.search(rf"\nbest trial     \d, val/acc {best.value * 100:.2f} %: optimizer.lr=0.0\d+\n", done.stdout)
    assert done.stdout.splitlines()[-1].startswith("more           optuna-dashboard sqlite:///")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Run the four points of a grid: the network of two of them diverges, and two are pruned if they get so far."""
    directory = tmp_path_factory.mktemp("study") / "sweep"
    command = study(
        directory, SABOTAGE, "callback=prune", "hydra.sweeper.sampler=grid", "+callback.sabotage.how=none,diverge",
        "callback.prune.pruner={_target_:optuna.pruners.ThresholdPruner}", "+callback.prune.pruner.lower=0.0,1.5",
    )  # fmt: skip
    first = processes.run(FORKED, *command, timeout=300)
    before = states(directory)
    return directory, first, before, processes.run(FORKED, *command, timeout=300)


def test_failed_and_pruned_trials_do_not_stop_the_study(pruned):
    directory, first, before, _ = pruned
    assert first.returncode == 1
    assert sorted(before) == ["COMPLETE", "FAIL", "FAIL", "PRUNED"]
    assert re.search(r"^pruned +.*lower=1.5.*: val/acc 0\.\d+ in epoch 1; see \S+output.log$", first.stdout, re.M)
    assert re.search(r"^ how-none_lower-1.5-\w+ +pruned ", first.stdout, re.M), "the table shows it"
    assert "study          4 trials: 1 done, 1 pruned, 2 failed" in first.stdout
    assert len(re.findall(r"^failed: .*the loss is nan", first.stderr, re.M)) == 2
    (run,) = directory.glob("how-none_lower-1.5-*")
    assert read_status(run).state == "pruned"
    assert not (run / "error.txt").exists()


def test_next_call_runs_only_the_failed_trials(pruned):
    """Those do not diverge again: one is done, and the other is pruned."""
    directory, _, _, second = pruned
    assert second.returncode == 0, second.stderr
    assert len(re.findall("^started ", second.stdout, re.M)) == 2
    assert sorted(states(directory)) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "PRUNED", "PRUNED"]
    assert "study          4 trials: 2 done, 2 pruned\n" in second.stdout


def test_all_ranks_of_a_pruned_trial_end_together(tmp_path):
    directory = tmp_path / "sweep"
    command = study(
        directory, "optimizer.lr=0.1,0.2", "hydra.sweeper.n_trials=1", "device=ddp_cpu", "trainer.devices=2",
        "callback=prune", "callback.prune.pruner={_target_:optuna.pruners.ThresholdPruner,lower:1.5}",
    )  # fmt: skip
    command.remove("device=cpu")
    done = processes.run(f"from tests.processes import fork_ranks; fork_ranks(); {FORKED}", *command, timeout=300)
    assert done.returncode == 0, done.stderr
    assert states(directory) == ["PRUNED"]


def nothing(cfg):
    """Stand for blitz-train: the fake loop does not call it."""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """``fake(*overrides)`` runs blitz-train with jobs that write their metrics at once. Return what it ran."""
    jobs = []

    def run_jobs(executor, display, next_job, ended):
        while job := next_job():
            display.start(job)
            outcome = job.finished()
            if outcome is None:
                job.path.mkdir(exist_ok=True)
                metrics = {"val/acc": (job.number + 1) / 10, "val/loss": job.number, "test/acc": 1}
                (job.path / "metrics.json").write_text(json.dumps(metrics))
                jobs.append(job)
                outcome = Outcome("done", metrics["val/acc"])
            display.end(job, outcome, was_run=job in jobs)
            ended(job, outcome)

    monkeypatch.setattr(launcher, "run_jobs", run_jobs)

    def run(*overrides, into="sweep"):
        monkeypatch.setattr(sys, "argv", ["blitz-train", *FAKE, *overrides, f"hydra.sweep.dir={tmp_path / into}"])
        jobs.clear()
        app.run(nothing, "train")
        return [job.label for job in jobs]

    return run


def test_sweep_file_and_command_line(fake, tmp_path):
    """The file's space is extended, its values are replaced, and the study grows."""
    file = ("sweep=optuna", "optimizer=sgd,adam", "optimizer.lr=0.1,0.2")
    labels = fake(*file, "hydra.sweeper.n_trials=3")
    assert len(labels) <= 3
    assert all(re.fullmatch(r"lr=0\.[12] optimizer=(sgd|adam)", label) for label in labels)
    fake(*file, "hydra.sweeper.n_trials=5")
    assert states(tmp_path / "sweep") == ["COMPLETE"] * 5
    assert fake(*file, "hydra.sweeper.n_trials=5") == []


def test_job_finds_its_trial_and_its_directory_does_not_depend_on_it(fake, tmp_path, monkeypatch):
    fake(RATES, "hydra.sweeper.n_trials=2")
    names = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    (tmp_path / "sweep" / "study.db").unlink()
    for path in (tmp_path / "sweep").glob("*/metrics.json"):
        path.unlink()
    fake(RATES, "hydra.sweeper.n_trials=2", f"hydra.sweeper.storage='sqlite:///{tmp_path}/other.db'")
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == names
    assert not (tmp_path / "sweep" / "study.db").exists()


def test_edit_of_the_config_begins_another_study(fake, tmp_path):
    fake(RATES, "hydra.sweeper.n_trials=2")
    assert len(fake(RATES, "hydra.sweeper.n_trials=2", "data.batch_size=7")) == 2
    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path}/sweep/study.db")) == 2


def test_several_objectives(fake, tmp_path, capsys):
    fake(RATES, "hydra.sweeper.n_trials=3", "hydra.sweeper.objectives={val/acc:max,val/loss:min}")
    assert [trial.values for trial in trials_of(tmp_path / "sweep")] == [[0.1, 0], [0.2, 1], [0.3, 2]]
    assert capsys.readouterr().out.count("\nbest trial     ") == 3


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "{_target_:optuna.samplers.TPESampler,seed:1}"])
def test_samplers(fake, tmp_path, sampler):
    labels = fake(
        RATES, "optimizer.weight_decay=tag(log,interval(1e-5,1))", f"hydra.sweeper.sampler={sampler}",
        "hydra.sweeper.n_trials=3",
    )  # fmt: skip
    assert len(set(labels)) == 3


def test_seed_of_the_sampler(fake):
    first, second, third = (
        fake(RATES, "hydra.sweeper.n_trials=2", f"hydra.sweeper.seed={seed}", into=str(number))
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == second
    assert not set(first) & set(third)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("hydra.sweeper.sampler=cmaes", "it needs two intervals or ranges, and the space has 1; expected tpe, random"),
        ("hydra.sweeper.sampler=grid", "sampler=grid: optimizer.lr is not a finite set of values; expected"),
        ("hydra.sweeper.objectives={val/acc:up}", "objectives.val/acc=up: no such direction; expected max or min"),
        ("hydra.sweeper.objectives={test/acc:max}", "test metrics must not be optimized; expected val/..."),
        ("callback=prune hydra.sweeper.objectives={val/loss:min}", "expected callback.prune.monitor=val/loss"),
        ("optimized_metric=null", "optimized_metric=null: a study needs a metric; expected one that the runs log"),
        ("hydra/launcher=basic", "hydra/launcher=basic: it cannot run a study; expected hydra/launcher=process"),
    ],
)
def test_settings_that_do_not_fit(command, tmp_path, overrides, message):
    refused = error_of(command, "blitz-train", *FAKE, RATES, *overrides.split(), f"hydra.sweep.dir={tmp_path / 's'}")
    assert message in refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trials": 0}, r"hydra.sweeper.n_trials=0: not a valid value; expected a whole number >= 1"),
        ({"max_failures": -1}, r"hydra.sweeper.max_failures=-1: not a valid value; expected a number >= 0"),
        ({"sampler": "tep"}, r"hydra.sweeper.sampler=tep: no such sampler; expected one of tpe, random, grid, cmaes"),
        ({"objectives": "val/acc"}, r"hydra.sweeper.objectives=val/acc: not a valid value; expected metrics with max"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(UserError, match=message):
        StudySweeper(**settings)


def test_missing_package_is_named_with_the_command_that_installs_it(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused = error_of(command, "blitz-train", *FAKE, RATES, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert refused.endswith("Optuna is not installed; install it with: python -m uv pip install -e '.[optuna]'")
