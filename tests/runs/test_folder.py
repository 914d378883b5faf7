"""Create, read and finish a run directory."""

import csv
import json
import math
import os

import pytest
import torch

from blitz.errors import UserError
from blitz.runs.folder import RESUMABLE, Run, create_run, finish_run
from blitz.runs.report import Report
from tests.conftest import QUICK, contents, error_of


def test_files_of_a_new_run(tmp_path):
    config = {"seed": 1, "data": {"classes": ["grün", "${oc.env:HOME}"]}}
    run = create_run(tmp_path / "a" / "run", config, ["seed=1"], threads=2)
    assert {"config.yaml", "overrides.yaml", "environment.json"} <= {file.name for file in run.path.iterdir()}
    assert (run.config, run.overrides, run.environment["threads"]) == (config, ["seed=1"], 2)
    assert (run.metrics, run.saved, run.last_checkpoint) == (None, False, None)


def test_empty_directory_reads_as_an_empty_run(tmp_path):
    run = Run(tmp_path)
    assert (run.overrides, run.environment, run.metrics) == ([], {}, None)


def test_run_is_never_overwritten(train):
    run = train(*QUICK)
    before = contents(run)
    message = error_of(train, *QUICK)
    assert f"{run} already holds a run, and runs are never overwritten" in message
    assert message.endswith(f"or resume it: resume={run}")
    assert contents(run) == before


def test_full_disk_leaves_no_half_of_a_run(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def fail_at_the_third(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        create_run(tmp_path / "run", {"seed": 1}, ["seed=1"])
    assert contents(tmp_path) == {}
    monkeypatch.undo()
    assert create_run(tmp_path / "run", {"seed": 1}, []).config == {"seed": 1}


def test_finished_run(tmp_path):
    run = create_run(tmp_path / "run", {}, [])
    report = Report(metrics={"test/acc/b": None}, tables={"per_class": [["class", "n"], ["a, b", 3]]})
    finish_run(run, {"val/loss": torch.tensor(0.5), "test/acc/a": 1.0, "epoch": 3}, report)
    assert list(run.metrics.items()) == [("epoch", 3.0), ("test/acc/a", 1.0), ("test/acc/b", None), ("val/loss", 0.5)]
    with (run.path / "per_class.csv").open() as file:
        assert list(csv.reader(file)) == [["class", "n"], ["a, b", "3"]]


def test_deleted_run_is_not_finished(tmp_path):
    """Loggers and callbacks create the directory again, so its existence alone proves nothing."""
    run = create_run(tmp_path / "run", {}, [])
    (run.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"run: its files were deleted during the run; its results cannot be recorded"):
        finish_run(run, {}, Report())
    assert run.metrics is None


def test_metrics_keep_every_bit(tmp_path):
    run = create_run(tmp_path / "run", {}, [])
    finish_run(run, {"a": math.pi, "b": torch.tensor(0.1)}, Report())
    assert json.loads((run.path / "metrics.json").read_text()) == {"a": math.pi, "b": float(torch.tensor(0.1))}


def test_metrics_are_valid_json_if_a_loss_is_not_a_number(tmp_path):
    run = create_run(tmp_path / "run", {}, [])
    finish_run(run, {"a": math.nan, "b": torch.tensor(math.inf), "c": 1.0}, Report())
    assert json.loads((run.path / "metrics.json").read_text(), parse_constant=pytest.fail) == {
        "a": None,
        "b": None,
        "c": 1.0,
    }


def test_newest_checkpoint_to_resume_from(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "best.ckpt").touch()
    assert not run.saved, "best.ckpt holds weights alone"
    for name in reversed(RESUMABLE):
        (run.checkpoints / name).touch()
        assert run.last_checkpoint == run.checkpoints / name
