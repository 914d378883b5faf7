"""The CSV logger: the file of Lightning's own logger, which also resumes."""

import csv

import pytest
import torch
from lightning.pytorch import loggers

from blitz.logger.csv import CSVLogger

ROWS = [
    ({"train/loss_step": 2.5, "epoch": 0}, 6),
    ({"val/loss": 1 / 3, "epoch": 0}, 9),
    ({"train/loss_step": 1e-9, "a, b": 1.0, "epoch": 1}, 12),
    ({"val/loss": float("nan"), "epoch": 1}, None),
]


def log(logger, rows, save_every=1):
    for number, (metrics, step) in enumerate(rows, 1):
        logger.log_metrics(dict(metrics), step)
        if number % save_every == 0:
            logger.save()


@pytest.mark.parametrize("save_every", [1, 2, 9])
def test_file_equals_that_of_lightnings_logger(save_every, tmp_path):
    paths = []
    for name, kind in (("ours", CSVLogger), ("lightning", loggers.CSVLogger)):
        logger = kind(tmp_path / name, name="", version="")
        log(logger, ROWS[:3], save_every)
        logger.log_hyperparams({"lr": 0.1, "net": "Net", "flags": [1, 2]})
        logger.finalize("success")
        paths.append(tmp_path / name)
    ours, lightnings = ({file.name: file.read_bytes() for file in path.iterdir()} for path in paths)
    assert ours == lightnings
    assert set(ours) == {"metrics.csv", "hparams.yaml"}


def test_tensors_and_missing_steps(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": torch.tensor(0.5)})
    logger.log_metrics({"loss": 0.25})
    logger.finalize("success")
    assert list(csv.DictReader((tmp_path / "metrics.csv").open())) == [
        {"loss": "0.5", "step": "0"},
        {"loss": "0.25", "step": "1"},
    ]


@pytest.mark.parametrize("kept", range(len(ROWS) + 1))
def test_a_resumed_run_writes_the_same_file(kept, tmp_path):
    """Whatever was logged after the position is removed, and with it the columns that only it had."""
    whole = CSVLogger(tmp_path / "whole")
    log(whole, ROWS)
    interrupted = CSVLogger(tmp_path / "resumed")
    log(interrupted, ROWS[:kept], save_every=2)
    position = interrupted.position(step=0)
    log(interrupted, [({"lost": 1.0}, 99)])
    resumed = CSVLogger(tmp_path / "resumed")
    resumed.truncate_to(position)
    log(resumed, ROWS[kept:])
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.position(step=0) == whole.position(step=0) == {"rows": len(ROWS)}


def test_a_position_beyond_the_file_keeps_what_there_is(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.truncate_to({"rows": 3})
    assert logger.position(step=0) == {"rows": 0}
    assert not logger.path.exists()
