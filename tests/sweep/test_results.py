"""The results of a sweep: tables, and an experiment file that composes to the config of the best run."""

import csv
import shutil
from pathlib import Path

import hydra
import pytest
import yaml

from blitz.config.paths import CONFIGS
from blitz.runs.collect import collect, read_record
from blitz.runs.folder import Run, as_json, as_yaml
from blitz.runs.overrides import move
from blitz.sweep.results import experiment_file, write_results
from blitz.training import build
from tests.conftest import OVERRIDES, contents
from tests.recorded import record_run
from tests.test_configs import compose


def test_files(tmp_path):
    values = {"a": (1, 0.5), "b": (2, 0.7), "c": (3, None)}
    paths = [
        record_run(tmp_path / name, seed=seed, metrics=value and {"val/acc": value})
        for name, (seed, value) in values.items()
    ]
    broken = record_run(tmp_path / "broken")
    (broken / "config.yaml").write_text("{")
    results = write_results(
        tmp_path, [*paths, broken, tmp_path / "absent"], ["/bin/blitz-train", "-m", "seed=1,2,3", "x=[1, 2]"]
    )
    rows = list(csv.DictReader((tmp_path / "results.csv").open(newline="")))
    assert [(row["run"], row["state"], row["val/acc"]) for row in rows] == [
        ("b", "done", "0.7"), ("a", "done", "0.5"), ("c", "interrupted", ""),
    ]  # fmt: skip
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[:5] == [f"# {tmp_path.name}", "", "```bash", "blitz-train -m seed=1,2,3 'x=[1, 2]'", "```"]
    assert "| b | done | 2 | 70.00 % |  |" in lines
    assert lines[-1] == "Best by val/acc: `b`, checkpoint `none`"
    assert (results.best.path.name, results.experiment) == ("b", tmp_path / "best.yaml")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"results.csv", "results.md", "best.yaml"}


def test_smallest_loss_is_the_best(tmp_path):
    paths = [
        record_run(tmp_path / str(loss), metric="val/loss", direction="min", metrics={"val/loss": loss})
        for loss in (0.3, 0.2, 0.4)
    ]
    assert write_results(tmp_path, paths).best.path.name == "0.2"


def test_no_best_run_without_results(tmp_path):
    """The experiment file of an earlier run of the sweep would be another one's."""
    (tmp_path / "best.yaml").touch()
    runs = [record_run(tmp_path / "a"), record_run(tmp_path / "b", metric=None, metrics={"x": 1})]
    results = write_results(tmp_path, runs)
    assert (results.best, results.experiment) == (None, None)
    assert not (tmp_path / "best.yaml").exists()
    assert "Best" not in (tmp_path / "results.md").read_text()


@pytest.fixture
def configs(tmp_path):
    """Return a copy of configs/, as in a fork."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


def recorded(path, *overrides):
    """Record a finished run with these overrides."""
    config = build.resolve(compose(*overrides)) | {"run_dir": str(path)}
    path.mkdir()
    files = {"config.yaml": as_yaml(config), "overrides.yaml": as_yaml(list(overrides))}
    for name, content in (files | {"metrics.json": as_json({config["optimized_metric"]: 0.5})}).items():
        (path / name).write_bytes(content)
    return read_record(path)


def composed(configs, *overrides):
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        cfg = hydra.compose("train", list(overrides))
    cfg.run_dir, cfg.seed = "logs/test", cfg.seed or 0
    return build.resolve(cfg)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=adam", "optimizer.lr=3e-4", "task/loss=focal", "seed=3", "data.batch_size=64", "device=cpu"],
        ["experiment=mnist", "data=digits", "schedule=constant", "seed=1", "optimizer=sgd", "optimizer.momentum=0.5"],
        ["experiment=regression", "model.hidden_channels=[8,1]", "seed=1", "optimizer.betas=[0.8,0.9]"],
        ["debug=limit", "trainer.max_epochs=5", "seed=1", "task/metrics=f1", "optimized_metric=val/f1"],
        ["callback=early_stopping", "callback.early_stopping.patience=3", "seed=1", "logger=csv"],
        ["+callback.timer._target_=lightning.pytorch.callbacks.Timer", "+callback.timer.duration='00:12:00:00'"],
        ["init_from='1e3'", "data.root='${oc.env:HOME}, {a: b} #1'", "optimizer={lr:0.5}", "optimizer.lr=0.2"],
        ["++data.augment={_target_:blitz.data.augment.Augment,flip:true}", "schedule.pct_start=0.5"],
        [],
    ],
)  # fmt: skip
def test_experiment_file_composes_to_the_config_of_the_run(overrides, configs, tmp_path):
    record = recorded(tmp_path / "run", *overrides)
    (configs / "experiment" / "best.yaml").write_text(experiment_file(record, 3))
    again = composed(configs, "experiment=best")
    assert again == move(record.config, str(tmp_path / "run"), "logs/test") | {"run_dir": "logs/test"}


def test_overrides_that_a_file_cannot_hold_are_in_its_command(configs, tmp_path):
    record = recorded(tmp_path / "run", "seed=1", "~callback.progress", "optimizer=sgd")
    text = experiment_file(record, 3)
    (configs / "experiment" / "best.yaml").write_text(text)
    assert "&& blitz-train experiment=best '~callback.progress'\n" in text
    again = composed(configs, "experiment=best", "~callback.progress")
    assert again["callback"].keys() == record.config["callback"].keys()


def test_overrides_of_the_job_are_not_repeated(tmp_path):
    record = recorded(tmp_path / "run", "seed=1")
    record.command_line[:] = ["seed=1", "resume=auto", "reproduce=x"]
    assert yaml.safe_load(experiment_file(record, 1)) == {"defaults": ["_self_"], "seed": 1}


def test_experiment_file_of_a_real_run(finished, command, tmp_path, capsys):
    """blitz-train composes it to the config that the run recorded. Its head names the run, checkpoint and metric."""
    before = contents(finished)
    results = write_results(tmp_path, [finished])
    assert contents(finished) == before
    (tmp_path / "experiment").mkdir()
    shutil.copy(results.experiment, tmp_path / "experiment")
    command(
        "blitz-train", "experiment=best", "--config-dir", str(tmp_path), "hydra.run.dir=x", "--cfg", "job", "--resolve"
    )
    again, run = yaml.safe_load(capsys.readouterr().out), Run(finished)
    again = move(again, again["run_dir"], str(finished))
    assert again == run.config
    assert yaml.safe_load(results.experiment.read_text())["seed"] == 1
    head = [line for line in results.experiment.read_text().splitlines() if line.startswith("# ")]
    assert head[0] == "# @package _global_"
    assert head[1] == (
        f"# The best of 1 job by val/acc: val/acc {run.metrics['val/acc'] * 100:.2f} %, "
        f"test/acc {run.metrics['test/acc'] * 100:.2f} %."
    )
    assert head[2:4] == [f"# Run: {finished}", f"# Checkpoint: {finished / 'checkpoints' / 'best.ckpt'}"]
    assert Path(head[3].removeprefix("# Checkpoint: ")).is_file()
    assert collect([finished])[0].command_line == list(OVERRIDES)
