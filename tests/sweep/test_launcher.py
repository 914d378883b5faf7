"""Sweeps, and what TensorBoard makes of them: a real server, asked as the page asks it."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import QUICK


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four jobs, of which those with an absurd learning rate fail, in a process of their own."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ["-m", "device=cpu", "optimizer=sgd,adam", "optimizer.lr=0.01,1e30", "seed=1", "schedule=constant", *QUICK]
    command = [sys.executable, "-m", "blitz.train", *words, f"hydra.sweep.dir={folder / 'sweep'}"]
    return folder / "sweep", subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_one_bad_job_does_not_stop_the_others(sweep):
    folder, done = sweep
    assert done.returncode == 1
    finished = {path.parent.name for path in folder.glob("*/metrics.json")}
    failed = {path.parent.name for path in folder.glob("*/error.txt")}
    assert len(finished) == len(failed) == 2
    assert all("lr-0.01" in name for name in finished)
    assert all("lr-1e" in name for name in failed)


def test_it_says_which_failed_at_once_and_at_the_end(sweep):
    _, done = sweep
    at_once = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(at_once) == 2
    assert all("the loss is" in line and "optimizer.lr=1e" in line for line in at_once)
    assert done.stderr.splitlines()[-1].startswith(
        "blitz-train: 2 of 4 jobs failed: device=cpu optimizer=sgd optimizer.lr=1e+30"
    )
    table = done.stdout[done.stdout.rindex("  job ") :]
    assert len(re.findall(r"optimizer=\w+ optimizer.lr=0.01 +\d+\.\d\d % +done", table)) == 2
    assert len(re.findall(r"optimizer=\w+ optimizer.lr=1e\+30 +n/a +failed", table)) == 2


def test_folders_are_named_by_their_overrides_and_need_no_quotes(sweep, command, tmp_path):
    folder, _ = sweep
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert len(names) == 4
    assert all(re.fullmatch(r"[\w.+-]+", name) for name in names)
    good = next(folder / name for name in names if "lr-0.01" in name and "sgd" in name)
    command("blitz-eval", f"run={good}", f"hydra.run.dir={tmp_path / 'eval'}")
    trained = json.loads((good / "metrics.json").read_text())
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert again["test/acc"] == trained["test/acc"]


def test_a_word_that_no_job_can_take_starts_none(tmp_path):
    words = ["-m", "optimizer=sgd,adma", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run([sys.executable, "-m", "blitz.train", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "blitz-train: optimizer=adma: no such choice, did you mean adam?; " + (
        "there are adam, adamw, nesterov, rmsprop, sgd\n"
    )
    assert not list((tmp_path / "sweep").rglob("config.yaml"))


@pytest.fixture(scope="module")
def tensorboard(sweep):
    folder, _ = sweep
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        address = None
        for line in server.stderr:
            if found := re.search(r"http://\S+?:(\d+)/", line):
                address = f"http://127.0.0.1:{found[1]}"
                break
        try:
            for _ in range(120):
                if len(_ask(address, "/data/runs")) == 4:
                    break
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def _ask(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_tensorboard_tells_the_runs_apart(sweep, tensorboard):
    folder, _ = sweep
    assert sorted(_ask(tensorboard, "/data/runs")) == sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_hparams_lists_the_hyper_parameters_with_the_final_metrics(sweep, tensorboard):
    folder, _ = sweep
    experiment = _ask(tensorboard, "/data/plugin/hparams/experiment", {"experimentName": ""})
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
    groups = _ask(tensorboard, "/data/plugin/hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == 4
    for group in groups:
        run = folder / group["sessions"][0]["name"]
        if (run / "metrics.json").exists():
            shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
            assert shown["test/acc"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc"])
            assert group["hparams"]["optimizer.lr"] == 0.01
            assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
        else:
            assert group["sessions"][0]["status"] == "STATUS_FAILURE"


def test_the_entry_point_returns_the_metric_to_optimize(tmp_path):
    """As a sweeper receives it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from blitz.config.paths import CONFIGS
    from blitz.config.schema import register
    from blitz.train import train

    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*QUICK, "seed=1", "optimized_metric=test/loss"], return_hydra_config=True)
        cfg.hydra.runtime.output_dir = str(tmp_path / "run")
        HydraConfig.instance().set_config(cfg)
        from omegaconf import open_dict

        with open_dict(cfg):
            del cfg["hydra"]
        value = train(cfg)
    assert value == json.loads((Path(tmp_path) / "run" / "metrics.json").read_text())["test/loss"]
