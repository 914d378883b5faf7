"""Reading run directories: real ones, those of earlier versions, and broken ones."""

import tarfile
from pathlib import Path

import pytest
import yaml

from blitz.runs import lock
from blitz.runs.collect import collect, find_runs, read_record
from blitz.runs.folder import Run
from tests.conftest import OVERRIDES, contents
from tests.recorded import record_run


def test_real_run(finished):
    before = contents(finished)
    (record,) = collect([finished.parent])
    assert contents(finished) == before
    run = Run(finished)
    assert (record.path, record.status.state, record.config) == (finished, "done", run.config)
    assert record.command_line == list(OVERRIDES)
    assert (record.metric, record.test_metric, record.minimized) == ("val/acc", "test/acc", False)
    assert (record.best, record.test) == (run.metrics["val/acc"], run.metrics["test/acc"])
    by_class = {f"{digit}": run.metrics[f"test/acc/{digit}"] for digit in range(10)}
    assert record.worst_class == (min(by_class, key=by_class.get), min(by_class.values()))
    assert record.seconds > 0
    assert record.samples_per_second > 0
    assert record.checkpoint == finished / "checkpoints" / "best.ckpt"
    assert record.values["optimizer"] == "SGD"
    assert record.values["optimizer.lr"] == 0.01
    assert "task.optimizer" in record.references


def test_runs_of_version_0_1(tmp_path):
    with tarfile.open(Path(__file__).with_name("version_0_1.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    finished, stopped = collect([tmp_path])
    assert (finished.path.name, finished.status.state) == ("finished", "done")
    assert (finished.best, finished.test) == (
        Run(finished.path).metrics["val/acc"],
        Run(finished.path).metrics["test/acc"],
    )
    assert (finished.minimized, finished.seconds) == (False, None)
    assert (stopped.path.name, stopped.status.state, stopped.best) == ("stopped", "interrupted", None)


def test_states_of_jobs(tmp_path):
    """A job that failed before its run began has no config, but its state."""
    progress = {"best": 0.5, "seconds": 7.0, "samples_per_second": 3.0}
    record_run(
        tmp_path / "sweep" / "a", progress=progress, status={"state": "pruned", "reason": "median", "seconds": 9}
    )
    record_run(tmp_path / "sweep" / "b", progress=progress)
    (tmp_path / "sweep" / "c").mkdir()
    (tmp_path / "sweep" / "c" / "status.json").write_text(
        '{"state": "failed", "reason": "no such file", "seconds": 2.5}'
    )
    with lock.hold(tmp_path / "sweep"), lock.hold(tmp_path / "sweep" / "b"):
        pruned, running, failed = collect([tmp_path])
    assert [pruned.status, running.status, failed.status] == [
        ("pruned", "median"), ("running", ""), ("failed", "no such file"),
    ]  # fmt: skip
    assert (pruned.best, pruned.seconds, running.samples_per_second) == (0.5, 7.0, 3.0)
    assert (failed.config, failed.metric, failed.best, failed.seconds) == ({}, None, None, 2.5)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.yaml", "a: [", "config.yaml: cannot be read (while parsing"),
        ("config.yaml", "- a", "config.yaml: cannot be read (expected a dict)"),
        ("config.yaml", "model: foreign", "config.yaml: not the config of a run"),
        ("metrics.json", '{"val/acc": ', "metrics.json: cannot be read (Expecting value"),
        ("overrides.yaml", "3", "overrides.yaml: cannot be read (expected a list)"),
        ("environment.json", "\x00", "environment.json: cannot be read (Expecting value"),
    ],
)
def test_broken_run_is_left_out_with_a_line(name, text, reason, tmp_path, capsys):
    good = record_run(tmp_path / "good", metrics={"val/acc": 0.5})
    bad = record_run(tmp_path / "bad", metrics={"val/acc": 0.5})
    (bad / name).write_text(text)
    assert [record.path for record in collect([tmp_path])] == [good]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{bad}/{reason}")
    assert line.endswith("; left out")


def test_evaluations_are_left_out(tmp_path, capsys):
    run = record_run(tmp_path / "eval", metrics={"test/acc": 0.5})
    (run / "overrides.yaml").write_text(yaml.dump(["checkpoint=logs/runs/x/checkpoints/best.ckpt"]))
    assert read_record(run) is None
    assert collect([tmp_path]) == []
    assert capsys.readouterr().err == ""


def test_each_run_counts_once(tmp_path):
    run = record_run(tmp_path / "sweeps" / "a" / "job")
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").touch()
    assert list(find_runs(tmp_path)) == [run]
    assert [record.path for record in collect([tmp_path, run, tmp_path / "sweeps" / "a"])] == [run]


def test_lists_and_wrapped_schedules(tmp_path):
    schedule = {"scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "gamma": 0.1}, "interval": "epoch"}
    record = read_record(record_run(tmp_path / "run", schedule=schedule, betas=[0.9, 0.999]))
    assert record.values["schedule"] == "StepLR"
    assert record.values["schedule.scheduler.gamma"] == 0.1
    assert record.values["betas"] == "[0.9, 0.999]"
