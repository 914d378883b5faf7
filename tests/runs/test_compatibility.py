"""Runs of version 0.1 (commit ec79485) resume, reproduce, evaluate and load.

``version_0_1.tar.xz`` holds two runs with the same overrides, made under a directory that does not exist any more:
``finished``, with its best checkpoint only, and ``stopped``, which SIGTERM stopped after step 40.
"""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from blitz import runs
from blitz.cli import launch
from blitz.data.digits import Digits
from blitz.runs.checkpoint import read_checkpoint
from blitz.runs.compatibility import upgrade_config
from blitz.runs.folder import Run
from blitz.training import build
from tests.conftest import QUICK, contents
from tests.test_configs import compose

ROUNDING = 1e-3  # other machines and other orders of summation


@pytest.fixture(scope="module")
def version_0_1(tmp_path_factory):
    directory = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(Path(__file__).with_name("version_0_1.tar.xz")) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture
def old(version_0_1, tmp_path):
    """``old(name)`` returns a copy of one of the two runs."""
    return lambda name: Run(shutil.copytree(version_0_1 / name, tmp_path / name))


def rows(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def floats(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if value}


def test_stopped_run_resumes_to_the_results_of_the_finished_one(old, command, capsys):
    finished, stopped = old("finished"), old("stopped")
    recorded = Path(stopped.config["run_dir"])
    before = contents(recorded)
    command("blitz-train", f"resume={stopped.path}")
    assert f"after step 40, from {stopped.path / 'checkpoints' / 'resume.ckpt'}" in capsys.readouterr().out
    assert stopped.metrics == pytest.approx(finished.metrics, abs=ROUNDING)
    resumed, uninterrupted = rows(stopped), rows(finished)
    assert [(row["epoch"], row["step"]) for row in resumed] == [(row["epoch"], row["step"]) for row in uninterrupted]
    for row, expected in zip(resumed, uninterrupted, strict=True):
        assert floats(row) == pytest.approx(floats(expected), abs=ROUNDING)
    assert contents(recorded) == before, "files are written where the run is now"
    assert stopped.config["run_dir"] == str(stopped.path)
    assert stopped.config["task"]["net"] == stopped.config["model"], "the config is recorded in the current layout"
    assert read_checkpoint(stopped.checkpoints / "resume.ckpt")["config"] == stopped.config


def test_finished_run_is_reported_as_finished(old, command, capsys):
    finished = old("finished")
    before = contents(finished.path)
    command("blitz-train", f"resume={finished.path}")
    accuracy = finished.metrics["test/acc"] * 100
    out = capsys.readouterr().out
    assert f"{finished.path} is finished, with a test accuracy of {accuracy:.2f} %; its schedule has ended" in out
    assert contents(finished.path) == before


def test_init_from_a_finished_run(old, train):
    finished = old("finished")
    run = train(*QUICK, f"init_from={finished.path}", "data.image_size=16", "optimizer.lr=0", "schedule=constant")
    before, after = (runs.load(path).state_dict() for path in (finished.path, run))
    assert all(torch.equal(before[key], after[key]) for key in before), "a learning rate of 0 changes no weight"


def test_finished_run_is_reproduced(old, train, capsys):
    finished = old("finished")
    run = Run(train(f"reproduce={finished.path}", "device=cpu"))
    assert run.metrics == pytest.approx(finished.metrics, abs=ROUNDING)
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(finished)]
    assert "reproduces     " in capsys.readouterr().out


def test_eval_gives_the_recorded_test_metrics(old, command, tmp_path):
    finished = old("finished")
    command("blitz-eval", f"run={finished.path}", "device=cpu", f"hydra.run.dir={tmp_path / 'eval'}")
    expected = {key: value for key, value in finished.metrics.items() if key.startswith("test/")}
    assert Run(tmp_path / "eval").metrics == pytest.approx(expected, abs=ROUNDING)
    assert (tmp_path / "eval" / "per_class.csv").read_text() == (finished.path / "per_class.csv").read_text()


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_loaded_model_classifies_images(name, old):
    run = old(name)
    task = runs.load(run.path)
    data = build.data(upgrade_config(run.config))
    assert isinstance(data, Digits)
    data.setup("test")
    images, labels = data.splits["test"][:2]
    with torch.no_grad():
        accuracy = (task(task.transform(images)).argmax(1) == labels).float().mean().item()
    if name == "finished":
        assert accuracy == pytest.approx(run.metrics["test/acc"], abs=5e-3), "one of 359 images may round differently"
    assert accuracy > 0.15, "chance is 0.1, and the stopped run has seen 2,000 images"


def test_columns_of_hparams_are_those_of_earlier_runs(old):
    """TensorBoard shows runs of several versions in one table."""
    finished = old("finished")
    columns = yaml.safe_load((finished.path / "hparams.yaml").read_text())
    kept = [key for key in columns if key != "trainer" and not key.startswith(build.NOT_HPARAMS)]
    assert {"optimizer.lr", "seed", "model"} <= set(kept) <= build.hparams(compose(*finished.overrides)).keys()


def test_current_config_is_returned_unchanged():
    config = build.resolve(compose("device=ddp_cpu"))
    before = json.dumps(config)
    assert upgrade_config(config) == config
    assert json.dumps(config) == before


def test_number_of_processes_is_that_of_trainer_devices(old, tmp_path):
    """``device.processes`` repeated it, and a changed ``trainer.devices`` was the one that counted."""
    config = old("finished").config
    config["device"]["processes"] = 3
    config["trainer"]["devices"] = 2
    upgraded = upgrade_config(config)
    cfg = compose("device=ddp_cpu")
    cfg.device, cfg.trainer.devices = upgraded["device"], upgraded["trainer"]["devices"]
    assert "processes" not in cfg.device
    assert launch.num_local_ranks(cfg) == 2
