"""Sweeps on real images: jobs that fail in every way, interrupted sweeps, and how TensorBoard shows them."""

import copy
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from omegaconf import open_dict

from blitz.cli import app
from blitz.runs.checkpoint import read_checkpoint
from blitz.runs.status import read_status
from blitz.sweep import launcher
from blitz.sweep import processes as processes_of_sweeps
from blitz.sweep.job import Outcome
from tests import processes
from tests.conftest import QUICK, contents, error_of

SABOTAGE = "+callback.sabotage={_target_:tests.sabotage.Sabotage,directory:'${run_dir}'}"
WAYS = ("none", "raise", "kill", "segfault", "hang", "diverge")
# Most tests fork the jobs from this process, which has imported torch already.
FORKED = f"from blitz.sweep import processes; processes.START_METHOD = 'fork'; {processes.TRAIN}"
STEPS = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.log_every_n_steps=1")


def arguments(directory, *swept):
    fixed = ("-m", "device=cpu", "schedule=constant", "callback.last.every_n_steps=1", "threads=1", *STEPS)
    return [*fixed, *swept, f"hydra.sweep.dir={directory}"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Run six jobs of which five fail, then the same command, and then once more."""
    directory = tmp_path_factory.mktemp("sweep") / "sweep"
    command = arguments(directory, SABOTAGE, f"+callback.sabotage.how={','.join(WAYS)}", "seed=1")
    limits = ("hydra.launcher.n_jobs=3", "hydra.launcher.timeout=1000")
    clock = f"from tests.sabotage import Clock; processes.time = Clock({str(directory)!r}, 6)"
    first = processes.run(
        f"from blitz.sweep import processes; {clock}; {processes.TRAIN}", *command, *limits, timeout=500
    )
    states = {path.name.split("-")[1]: read_status(path) for path in directory.iterdir() if path.is_dir()}
    shutil.copytree(directory, directory.parent / "after the first command")
    untouched = contents(next(directory.glob("how-none-*")))
    second, third = (processes.run(FORKED, *command, timeout=300) for _ in range(2))
    return directory, (first, second, third), states, untouched


def test_failed_jobs_do_not_stop_the_others(sweep):
    _, (first, *_), states, _ = sweep
    assert first.returncode == 1
    assert states.pop("none").state == "done"
    assert {status.state for status in states.values()} == {"failed"}
    assert states["raise"].reason.startswith("RuntimeError: sabotaged (")
    assert states["kill"].reason == "its process was killed by SIGKILL; out of memory?"
    assert states["segfault"].reason == "its process was killed by SIGSEGV"
    assert states["hang"].reason == "stopped after hydra.launcher.timeout=1000 s"
    assert "the loss is nan" in states["diverge"].reason


def test_failures_are_listed_at_the_end_with_their_logs(sweep):
    _, (first, *_), _, _ = sweep
    lines = [line for line in first.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 5
    for line in lines:
        log = re.search(r"see (\S+output\.log)$", line)
        assert log, line
        assert Path(log[1]).exists()
    assert first.stderr.splitlines()[-1] == (
        "blitz-train: 5 of 6 jobs failed; run the same command again to retry only these"
    )


def test_same_command_runs_only_what_failed(sweep):
    directory, (_, second, _), _, untouched = sweep
    assert second.returncode == 0, second.stderr
    started = re.findall(r"^started +how=(\w+)", second.stdout, re.MULTILINE)
    assert sorted(started) == sorted(WAYS[1:])
    assert len(list(directory.glob("*/metrics.json"))) == 6
    assert contents(next(directory.glob("how-none-*"))) == untouched
    log = next(directory.glob("how-kill-*")) / "output.log"
    assert "resumed        after step" in log.read_text()


def test_resumed_jobs_equal_those_that_never_stopped(sweep):
    directory, *_ = sweep
    weights = {
        path.parent.parent.name.split("-")[1]: read_checkpoint(path)["state_dict"]
        for path in directory.glob("*/checkpoints/resume.ckpt")
    }
    assert set(weights) == set(WAYS)
    for how in ("raise", "kill", "segfault", "hang"):
        assert all(torch.equal(weights["none"][name], weights[how][name]) for name in weights["none"])


def test_finished_sweep_says_so_and_prints_its_results(sweep):
    _, (_, _, third), _, _ = sweep
    assert third.returncode == 0
    assert "started" not in third.stdout
    assert "all 6 jobs are done already" in third.stdout
    assert len(re.findall(r"^ *how-\w+-[0-9a-f]{8} +done .*\d\d % ", third.stdout, re.MULTILINE)) == 6


def test_results_are_written_to_the_directory_of_the_sweep(sweep):
    directory, (_, second, _), _, _ = sweep
    with (directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {path.name for path in directory.iterdir() if path.is_dir()}
    best = max(rows, key=lambda row: float(row["val/acc"]))
    assert rows[0]["val/acc"] == best["val/acc"]
    assert f"Run: {directory / rows[0]['run']}" in (directory / "best.yaml").read_text()
    assert "blitz-train" in (directory / "results.md").read_text() or "-m" in (directory / "results.md").read_text()
    assert re.search(r"^recipe +\S+best\.yaml$", second.stdout, re.MULTILINE)


def test_parallel_jobs_equal_single_runs(train, sweep):
    directory, *_ = sweep
    overrides = [text for text in arguments(directory)[1:-1] if text != "device=cpu"]
    single = train(*overrides, SABOTAGE, "+callback.sabotage.how=none", "seed=1")
    job = next(directory.glob("how-none-*"))
    assert json.loads((single / "metrics.json").read_text()) == json.loads((job / "metrics.json").read_text())
    one, other = (read_checkpoint(run / "checkpoints" / "resume.ckpt")["state_dict"] for run in (single, job))
    assert all(torch.equal(one[name], other[name]) for name in one)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_sweep_leaves_no_process_and_is_completed_by_the_same_command(tmp_path):
    """The parent is killed when two jobs are done and two are running."""
    command = arguments(tmp_path / "sweep", SABOTAGE, "+callback.sabotage.how=none,hang", "seed=1,2")
    process = processes.start(processes.TRAIN, *command, "hydra.launcher.n_jobs=2")
    wait_for(lambda: len(list(tmp_path.rglob("sabotaged"))) == 2)
    pids = [int(path.read_text()) for path in tmp_path.rglob("sabotaged")]
    assert all(map(alive, pids))
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, pids)), 20)
    done = processes.run(FORKED, *command, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 4


def test_ctrl_c_saves_the_running_jobs(tmp_path):
    command = arguments(
        tmp_path / "sweep", SABOTAGE, "+callback.sabotage.how=slow", "seed=1,2,3", "trainer.max_epochs=9"
    )
    process = processes.start(FORKED, *command, "hydra.launcher.n_jobs=2")
    saved = (tmp_path / "sweep").glob
    wait_for(lambda: len(list(saved("*/checkpoints/resume.ckpt"))) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "0 of 3 jobs are done; run the same command again to finish the rest"
    runs = [path.parent for path in saved("*/config.yaml")]
    assert [read_status(run).state for run in runs] == ["interrupted"] * 2
    assert not list(saved("*/metrics.json"))


def test_sweep_that_is_running_is_not_started_again(tmp_path):
    command = arguments(tmp_path / "sweep", SABOTAGE, "+callback.sabotage.how=hang,none", "seed=1")
    process = processes.start(FORKED, *command)
    try:
        wait_for(lambda: list(tmp_path.rglob("sabotaged")))
        again = processes.run(FORKED, *command)
    finally:
        process.kill()
        process.communicate()
    assert again.returncode == 1
    assert re.fullmatch(r"blitz-train: \S+ is in use by process \d+ on host \S+; .*", again.stderr.strip())


def test_two_sweeps_of_different_configs_share_nothing_and_an_edit_makes_new_jobs(tmp_path, monkeypatch):
    """The digest in the name of a job tells an edited config from the one that ran."""
    names = []
    for lr in (0.1, 0.2):
        monkeypatch.setattr(
            sys, "argv", ["blitz-train", *arguments(tmp_path / "sweep", "seed=1,2", f"optimizer.lr={lr}")]
        )
        names.append(_names_of_jobs(monkeypatch))
    assert not set(names[0]) & set(names[1])
    assert [name[:7] for name in names[0]] == ["seed-1-", "seed-2-"]


def _names_of_jobs(monkeypatch):
    names = []
    monkeypatch.setattr(launcher, "run_jobs", lambda executor, display, next_job, end: _record(next_job, names, end))
    app.run(half_of_the_seed, "train")
    return names


def _record(next_job, names, end):
    while job := next_job():
        names.append(job.path.name)
        end(job, Outcome("done", 0.5))


def test_jobs_return_the_metric_to_optimize(monkeypatch, tmp_path):
    """A sweeper receives it as Hydra's JobReturn, one per job in their order."""
    returned = []
    launch = launcher.JobLauncher.launch

    def observed(self, jobs, initial_job_idx):
        result = launch(self, jobs, initial_job_idx)
        returned.extend(job.return_value for job in result)
        return result

    monkeypatch.setattr(processes_of_sweeps, "START_METHOD", "fork")
    monkeypatch.setattr(launcher.JobLauncher, "launch", observed)
    monkeypatch.setattr(sys, "argv", ["blitz-train", *arguments(tmp_path / "sweep", "seed=3,1,2")])
    app.run(half_of_the_seed, "train")
    assert returned == [1.5, 0.5, 1.0]


def test_equal_jobs_run_once(monkeypatch, tmp_path, capsys):
    """``1e-1`` is the same number as ``0.1``."""
    monkeypatch.setattr(processes_of_sweeps, "START_METHOD", "fork")
    command = arguments(tmp_path / "sweep", "seed=3", "optimizer.lr=0.1,1e-1")
    monkeypatch.setattr(sys, "argv", ["blitz-train", *command])
    app.run(half_of_the_seed, "train")
    assert capsys.readouterr().out.count("started") == 1


def half_of_the_seed(cfg):
    return cfg.seed / 2


def test_sweep_without_jobs(command, tmp_path):
    message = error_of(command, "blitz-train", "-m", "seed=range(0)", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "the sweep has no jobs; expected at least one value" in message


def test_wrong_override_starts_no_job(command, tmp_path):
    wrong = ("-m", "optimizer=sgd,adma", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert error_of(command, "blitz-train", *wrong) == (
        "blitz-train: optimizer=adma: no such choice; did you mean adam? "
        "expected one of adam, adamw, nesterov, rmsprop, sgd"
    )
    assert not list((tmp_path / "sweep").rglob("config.yaml"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("n_jobs=0", "expected a whole number >= 1"),
        ("jobs_per_gpu=-1", "expected a whole number >= 1"),
        ("timeout=0", "expected seconds > 0, or null"),
    ],
)
def test_invalid_settings_of_the_launcher(override, expected, command, tmp_path):
    setting = f"hydra.launcher.{override}"
    message = error_of(command, "blitz-train", "-m", "seed=1,2", setting, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert message == f"blitz-train: {setting}: not a valid value; {expected}"


def test_plugins_are_found_by_hydra():
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper

    assert "ProcessLauncher" in [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]
    assert "GridSweeper" in [plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)]


@pytest.fixture(scope="module")
def tensorboard(sweep):
    directory = sweep[0].parent / "after the first command"
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(directory),
        "--port",
        "0",
        "--load_fast",
        "false",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        address = None
        for line in server.stderr:
            if found := re.search(r"http://\S+?:(\d+)/", line):
                address = f"http://127.0.0.1:{found[1]}"
                break
        try:
            for _ in range(120):
                if len(_request(address, "/data/runs")) == 6:
                    break
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def _request(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_tensorboard_names_each_run(sweep, tensorboard):
    directory = sweep[0].parent / "after the first command"
    assert sorted(_request(tensorboard, "/data/runs")) == sorted(
        path.name for path in directory.iterdir() if path.is_dir()
    )


def test_hparams_lists_hyper_parameters_and_final_metrics(sweep, tensorboard):
    directory = sweep[0].parent / "after the first command"
    experiment = _request(tensorboard, "/data/plugin/hparams/experiment", {"experimentName": ""})
    columns = {column["name"] for column in experiment["hparamInfos"]}
    assert {"optimizer.lr", "optimizer", "seed"} <= columns
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert {"test/acc", "acc/val", "test/loss"} <= set(metrics)
    assert "epoch" not in metrics
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": info["name"]} for info in experiment["metricInfos"]],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = _request(tensorboard, "/data/plugin/hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == 6
    for group in groups:
        run = directory / group["sessions"][0]["name"]
        if "how-none" in run.name:
            shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
            assert shown["test/acc"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc"])
            assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        else:
            assert group["sessions"][0]["status"] == "STATUS_FAILURE", run


def test_train_returns_the_metric_to_optimize(tmp_path):
    """A sweeper receives this value."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from blitz.config.paths import CONFIGS
    from blitz.config.schema import register
    from blitz.train import train

    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(
            "train", [*QUICK, "seed=1", "optimized_metric=val/loss", "direction=min"], return_hydra_config=True
        )
        cfg.hydra.runtime.output_dir = str(tmp_path / "run")
        HydraConfig.instance().set_config(copy.deepcopy(cfg))
        with open_dict(cfg):
            del cfg["hydra"]
        value = train(cfg)
    assert value == json.loads((Path(tmp_path) / "run" / "metrics.json").read_text())["val/loss"]
