"""State of a run directory, read without changing it."""

import json
import traceback

import pytest

from blitz.errors import UserError
from blitz.runs import lock
from blitz.runs.status import Status, read_progress, read_status
from tests.conftest import contents


def raised(error):
    try:
        raise error from KeyError("the cause")
    except BaseException as caught:
        return "".join(traceback.format_exception(caught))


def write(directory, **files):
    for name, content in files.items():
        path = directory / {"error": "error.txt"}.get(name, f"{name}.json")
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({}, ("interrupted", "it ended without results")),
        ({"metrics": {}}, ("done", "")),
        ({"status": {"state": "pruned", "reason": "at epoch 3", "seconds": 2.5}}, ("pruned", "at epoch 3")),
        ({"status": {"state": "interrupted", "reason": "Ctrl-C"}}, ("interrupted", "Ctrl-C")),
        ({"status": {"state": "failed", "reason": "killed by\nSIGKILL"}}, ("failed", "killed by SIGKILL")),
        ({"status": '{"state": "fai'}, ("interrupted", "it ended without results")),
        ({"status": {"state": "failed", "reason": "late"}, "metrics": {}}, ("done", "")),
        ({"error": raised(ZeroDivisionError("a\nb"))}, ("failed", "ZeroDivisionError: a")),
        ({"error": raised(KeyError())}, ("failed", "KeyError")),
        ({"error": raised(UserError("seed=x: not a number"))}, ("failed", "seed=x: not a number")),
        ({"error": "it failed"}, ("failed", "it failed")),
        ({"error": ""}, ("failed", "")),
        ({"error": raised(UserError("val/loss is nan")), "metrics": {"val/loss": None}}, ("failed", "val/loss is nan")),
    ],
)  # fmt: skip
def test_state_is_that_of_the_files(files, status, tmp_path):
    write(tmp_path, **files)
    before = contents(tmp_path)
    assert read_status(tmp_path) == status
    assert contents(tmp_path) == before
    with lock.hold(tmp_path):
        assert read_status(tmp_path) == Status("running")


def test_real_runs(finished, unfinished):
    assert read_status(finished) == Status("done")
    assert read_status(unfinished) == Status("failed", "it failed")
    (unfinished / "error.txt").unlink()
    assert read_status(unfinished).state == "interrupted"


def test_progress_may_be_missing_or_damaged(finished, tmp_path):
    assert read_progress(tmp_path / "absent") is None
    for text in ("", "[]", '{"epoch": 1'):
        (tmp_path / "progress.json").write_text(text)
        assert read_progress(tmp_path) is None
    progress = read_progress(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert (progress["epoch"], progress["max_epochs"], progress["metric"]) == (1, 1, "val/acc")
    assert progress["last"] == progress["best"] == metrics["val/acc"]
