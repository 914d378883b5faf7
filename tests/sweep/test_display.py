"""What a sweep prints while it runs, at several widths, and without a terminal."""

import io
import json
import re

import pytest
from rich.console import Console

from blitz.sweep.display import Display
from blitz.sweep.job import Job, Outcome


def jobs(tmp_path, number=4):
    return [Job(n, [f"seed={n}"], f"seed={n}", tmp_path / f"seed-{n}", "val/acc") for n in range(number)]


def show(tmp_path, width=80, terminal=True, **options):
    """Return what is printed about one job of each kind."""
    text = io.StringIO()
    console = Console(file=text, width=width, height=20, force_terminal=terminal, emoji=False, **options)
    done, failed, old, running = jobs(tmp_path)
    running.path.mkdir()
    progress = {"epoch": 3, "max_epochs": 10, "metric": "val/acc", "last": 0.5, "best": 0.75, "seconds": 60.0}
    (running.path / "progress.json").write_text(json.dumps(progress))
    shown = Display(5, console)
    with shown:
        for job in (done, failed, running):
            shown.start(job)
        shown.end(old, Outcome("done", 0.5), was_run=False)
        shown.end(done, Outcome("done", 0.9861, seconds=83), was_run=True)
        shown.end(failed, Outcome("failed", reason="the loss is nan [at] step 2", seconds=3725), was_run=True)
    assert shown.num_run == 2
    return text.getvalue()


def test_lines_without_a_terminal(tmp_path):
    lines = show(tmp_path, terminal=False).splitlines()
    assert [line.split() for line in lines[:3]] == [["started", f"seed={n}"] for n in (0, 1, 3)]
    assert lines[3] == "done        seed=0  val/acc 98.61 %  (1:23)"
    assert re.fullmatch(
        r"failed      seed=1  \(1:02:05\): the loss is nan \[at\] step 2; see \S+/seed-1/output\.log", lines[4]
    )
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)


def test_table_of_running_jobs(tmp_path):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(tmp_path))
    assert re.search(r"seed=3 +3/10 +75\.00 % +\d\.\d s +2:20", text), (
        "seconds per epoch times the epochs that are left"
    )
    assert "5 jobs: 2 done, 1 failed, 1 running, 1 waiting; about" in text


@pytest.mark.parametrize("width", [20, 40])
def test_narrow_terminals(tmp_path, width):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(tmp_path, width=width))
    table = [line for line in text.splitlines() if "3/10" in line]
    assert all(len(line) <= width for line in table)


def test_no_color(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[3\dm", show(tmp_path))
    assert "\x1b[31m" not in show(
        tmp_path.joinpath("other") if tmp_path.joinpath("other").mkdir() else tmp_path / "other"
    )
