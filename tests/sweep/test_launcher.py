"""Sweeps, and how TensorBoard shows them: a real server receives the requests of its web page."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from blitz.cli import app
from blitz.sweep import launcher
from tests import processes
from tests.conftest import QUICK, contents, error_of


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Run four jobs in a process of their own. Those with an absurd learning rate fail."""
    directory = tmp_path_factory.mktemp("sweep") / "sweep"
    grid = ["optimizer=sgd,adam", "optimizer.lr=0.01,1e30"]
    arguments = ["-m", "device=cpu", *grid, "seed=1", "schedule=constant", *QUICK, f"hydra.sweep.dir={directory}"]
    return directory, processes.run(processes.TRAIN, *arguments, timeout=600)


def test_failed_jobs_do_not_stop_the_others(sweep):
    directory, done = sweep
    assert done.returncode == 1
    finished = {path.parent.name for path in directory.glob("*/metrics.json")}
    failed = {path.parent.name for path in directory.glob("*/error.txt")}
    assert len(finished) == len(failed) == 2
    assert all("lr-0.01" in name for name in finished)
    assert all("lr-1e" in name for name in failed)


def test_failures_are_printed_at_once_and_at_the_end(sweep):
    _, done = sweep
    at_once = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(at_once) == 2
    assert all("the loss is" in line and "optimizer.lr=1e" in line for line in at_once)
    assert done.stderr.splitlines()[-1].startswith(
        "blitz-train: 2 of 4 jobs failed: device=cpu optimizer=sgd optimizer.lr=1e+30"
    )


def test_results_are_printed_as_a_table(sweep):
    directory, done = sweep
    table = done.stdout[done.stdout.rindex("  job ") :]
    assert len(re.findall(r"optimizer=\w+ optimizer.lr=0.01 +\d+\.\d\d % +\d+\.\d\d % +done", table)) == 2
    assert len(re.findall(r"optimizer=\w+ optimizer.lr=1e\+30 +n/a +n/a +failed", table)) == 2
    assert "seed=1" not in table, "overrides that all jobs share do not tell them apart"
    assert table.splitlines()[-1].split() == ["sweep", str(directory)]


def test_repeated_sweep_leaves_its_runs_as_they_are(command, tmp_path, capsys):
    """The table and stderr agree: the job was refused."""
    arguments = ("-m", "device=cpu", *QUICK, "seed=1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    command("blitz-train", *arguments)
    (run,) = (path.parent for path in (tmp_path / "sweep").rglob("config.yaml"))
    before = contents(run)
    capsys.readouterr()
    assert "1 of 1 jobs failed: " in error_of(command, "blitz-train", *arguments)
    assert contents(run) == before
    out, err = capsys.readouterr()
    assert re.search(r"\S +refused", out)
    assert len(err.splitlines()) == 1
    assert "already holds a run" in err


def test_sweep_without_jobs(command, tmp_path):
    message = error_of(command, "blitz-train", "-m", "seed=range(0)", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "the sweep has no jobs; expected at least one value" in message


def test_directories_are_named_by_overrides_and_need_no_quotes(sweep, command, tmp_path):
    directory, _ = sweep
    names = sorted(path.name for path in directory.iterdir() if path.is_dir())
    assert len(names) == 4
    assert all(re.fullmatch(r"[\w.+-]+", name) for name in names)
    good = next(directory / name for name in names if "lr-0.01" in name and "sgd" in name)
    command("blitz-eval", f"run={good}", f"hydra.run.dir={tmp_path / 'eval'}")
    trained = json.loads((good / "metrics.json").read_text())
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert evaluated["test/acc"] == trained["test/acc"]


def test_wrong_override_starts_no_job(command, tmp_path):
    arguments = ("-m", "optimizer=sgd,adma", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert error_of(command, "blitz-train", *arguments) == (
        "blitz-train: optimizer=adma: no such choice; did you mean adam? "
        "expected one of adam, adamw, nesterov, rmsprop, sgd"
    )
    assert not list((tmp_path / "sweep").rglob("config.yaml"))


def test_job_that_a_signal_stops_ends_the_sweep(monkeypatch, tmp_path, capsys):
    started = []

    def task(cfg):
        started.append(cfg.seed)
        sys.exit(143)

    arguments = ("blitz-train", "-m", "device=cpu", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stopped:
        app.run(task, "train")
    assert (stopped.value.code, started) == (143, [1])


def test_jobs_return_the_metric_to_optimize(monkeypatch, tmp_path):
    """A sweeper receives it as Hydra's JobReturn, one per job in their order."""
    returned = []
    monkeypatch.setattr(launcher, "_show_results", lambda jobs, _: returned.extend(job.return_value for job in jobs))
    arguments = ("blitz-train", "-m", "device=cpu", "seed=3,1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    monkeypatch.setattr(sys, "argv", list(arguments))
    app.run(lambda cfg: cfg.seed / 2, "train")
    assert returned == [1.5, 0.5, 1.0]


def test_plugin_is_found_by_hydra():
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    assert "BlitzLauncher" in [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]


@pytest.fixture(scope="module")
def tensorboard(sweep):
    directory, _ = sweep
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
                if len(_request(address, "/data/runs")) == 4:
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
    directory, _ = sweep
    assert sorted(_request(tensorboard, "/data/runs")) == sorted(
        path.name for path in directory.iterdir() if path.is_dir()
    )


def test_hparams_lists_hyper_parameters_and_final_metrics(sweep, tensorboard):
    directory, _ = sweep
    experiment = _request(tensorboard, "/data/plugin/hparams/experiment", {"experimentName": ""})
    columns = {column["name"] for column in experiment["hparamInfos"]}
    assert {"optimizer.lr", "optimizer", "optimizer.momentum", "optimizer.betas.0", "seed"} <= columns
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert {"test/acc", "val/acc", "test/loss"} <= set(metrics)
    assert "epoch" not in metrics
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"metric": info["name"]} for info in experiment["metricInfos"]],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = _request(tensorboard, "/data/plugin/hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == 4
    for group in groups:
        run = directory / group["sessions"][0]["name"]
        if (run / "metrics.json").exists():
            shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
            assert shown["test/acc"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc"])
            assert group["hparams"]["optimizer.lr"] == 0.01
            assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        else:
            assert group["sessions"][0]["status"] == "STATUS_FAILURE"


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
        HydraConfig.instance().set_config(cfg)
        from omegaconf import open_dict

        with open_dict(cfg):
            del cfg["hydra"]
        value = train(cfg)
    assert value == json.loads((Path(tmp_path) / "run" / "metrics.json").read_text())["val/loss"]
