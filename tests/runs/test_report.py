"""A task's report becomes files, metrics and terminal lines without edits elsewhere."""

import json

from blitz import terminal
from blitz.runs.folder import create_run, finish_run
from blitz.runs.report import Report


def test_default_report_is_empty(tmp_path, capsys):
    run = create_run(tmp_path / "run", {}, [])
    before = set(run.path.iterdir())
    finish_run(run, {"test/psnr": 30.0}, Report())
    terminal.show_end(run, Report())
    assert json.loads((run.path / "metrics.json").read_text()) == {"test/psnr": 30.0}
    assert set(run.path.iterdir()) - before == {run.path / "metrics.json"}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["dashboard", "run"]


def test_report_of_another_kind_of_task(tmp_path, capsys):
    run = create_run(tmp_path / "run", {}, [])
    report = Report(
        metrics={"test/psnr/empty": None},
        tables={"images": [["image", "psnr"], ["a", 30.1]]},
        display=[("image", "psnr", ""), ("a", "30.1 dB", "worst")],
        summary={"test psnr": "30.1 dB"},
    )
    finish_run(run, {"test/psnr": 30.1}, report)
    terminal.show_end(run, report)
    assert run.metrics == {"test/psnr": 30.1, "test/psnr/empty": None}
    assert (run.path / "images.csv").read_text().splitlines() == ["image,psnr", "a,30.1"]
    out = capsys.readouterr().out
    assert "30.1 dB   worst" in out
    assert "test psnr      30.1 dB\n" in out
