"""Run a finished run again, and compare environment and metrics."""

import json
import shutil

import torch

from blitz.runs.folder import Run
from blitz.runs.reproduce import KIND, changes, comparable, compare
from tests.conftest import OVERRIDES, contents, error_of


def test_metrics_are_identical(finished, train, capsys):
    before = contents(finished)
    path = train(f"reproduce={finished}", "callback.progress.every_n_steps=2")
    out = capsys.readouterr().out
    count = len(json.loads((finished / "metrics.json").read_text()))
    assert out.splitlines()[-1] == f"metrics        identical: all {count} of them"
    assert "differs" not in out
    assert (path / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    original, run = Run(finished), Run(path)
    assert run.environment["reproduces"] == run.config["reproduce"] == str(finished)
    assert run.environment["data"] == original.environment["data"]
    assert run.overrides == [*OVERRIDES, f"reproduce={finished}", "callback.progress.every_n_steps=2"]
    assert run.config["seed"] == original.config["seed"]
    assert contents(finished) == before


def test_differences_are_printed(finished, train, tmp_path, capsys):
    original = shutil.copytree(finished, tmp_path / "original")
    environment = json.loads((original / "environment.json").read_text())
    environment["packages"]["torch"] = "2.0"
    environment["data"]["val"] = "pixels:" + "0" * 64
    environment["data"]["test"] = "files:" + "0" * 64
    del environment["platform"]
    (original / "environment.json").write_text(json.dumps(environment))
    metrics = json.loads((original / "metrics.json").read_text())
    for name in list(metrics)[:11]:
        metrics[name] = -1.0
    (original / "metrics.json").write_text(json.dumps(metrics))
    train(f"reproduce={original}")
    start, _, end = capsys.readouterr().out.partition("epoch")
    assert start.count("differs        ") == 3
    assert "data checksums (different kinds cannot be compared) is pixels, was files, pixels" in start
    assert f"differs        torch is {torch.__version__.split('+')[0]}" in start
    assert ", was 2.0\n" in start
    assert "differs        data checksum (val, pixels) is " in start
    assert f"metrics        11 of {len(metrics)} differ; see the differences above" in end
    assert end.count("differs        ") == 11
    assert end.rstrip().endswith("and 1 more")


def test_refused(finished, unfinished, train, tmp_path):
    before = contents(tmp_path)
    message = error_of(train, f"reproduce={unfinished}")
    assert f"not finished; to resume it: blitz-train resume={unfinished}" in message
    assert "trainer.max_epochs=9: " in error_of(train, f"reproduce={finished}", "trainer.max_epochs=9")
    assert "seed=1 and keeps it" in error_of(train, f"reproduce={finished}", "seed=3")
    assert "reproduce=nowhere: no such directory" in error_of(train, "reproduce=nowhere")
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_metrics_are_compared_to_the_last_bit(finished, tmp_path):
    run = Run(shutil.copytree(finished, tmp_path / "run"))
    metrics = dict(run.metrics)
    metrics["test/loss"] += 1e-15
    metrics["new"] = None
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    total, differing, explained = compare(Run(finished), run)
    assert total == len(metrics)
    assert differing == [
        "new is None, was 'absent'",
        f"test/loss is {metrics['test/loss']!r}, was {Run(finished).metrics['test/loss']!r}",
    ]
    assert not explained


def test_a_checksum_of_another_kind_is_one_difference():
    """Earlier versions recorded files by name and size, and decoded images by their pixels."""
    before = comparable({"data": {"test": "pixels:" + "a" * 64}, "threads": 1}, b"")
    after = comparable({"data": {"test": "contents:" + "b" * 64}, "threads": 2}, b"")
    assert changes(before, after) == ["threads is 2, was 1", f"{KIND} is contents, was pixels"]
