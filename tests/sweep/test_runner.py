"""The loop that starts jobs as places become free."""

import os
import signal

import pytest

from blitz.sweep.job import Job, Outcome
from blitz.sweep.runner import run_jobs


class Display:
    def __init__(self):
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, job):
        self.events.append(("start", job.number))

    def end(self, job, outcome, was_run):
        self.events.append((outcome.state, job.number))

    def refresh(self):
        pass


class Executor:
    """Run two jobs at a time. Jobs end one by one, the newest first."""

    slots = 2

    def __init__(self):
        self.running, self.stopped, self.closed = [], False, False

    def start(self, job):
        self.running.append(job)

    def wait(self, seconds):
        return [(self.running.pop(), Outcome("interrupted" if self.stopped else "done", 1.0))]

    def stop(self):
        self.stopped = True

    def close(self):
        self.closed = True


def make_jobs(tmp_path, number):
    return [Job(n, [], f"job {n}", tmp_path / str(n), "val/acc") for n in range(number)]


def test_a_place_is_filled_as_soon_as_it_is_free(tmp_path):
    """Job 0 ends last, and no other job waits for it."""
    executor, display, ended = Executor(), Display(), []
    waiting = iter(make_jobs(tmp_path, 4))
    run_jobs(executor, display, lambda: next(waiting, None), lambda job, outcome: ended.append(job.number))
    assert ended == [1, 2, 3, 0]
    assert display.events[:4] == [("start", 0), ("start", 1), ("done", 1), ("start", 2)]
    assert executor.closed


def test_next_job_is_asked_for_only_when_a_place_is_free(tmp_path):
    """A study proposes a job with the results of all jobs that have ended before."""
    known, asked = [], []
    waiting = iter(make_jobs(tmp_path, 4))

    def next_job():
        asked.append(len(known))
        return next(waiting, None)

    run_jobs(Executor(), Display(), next_job, lambda job, outcome: known.append(job))
    assert asked[:4] == [0, 0, 1, 2]


def test_finished_jobs_are_not_run_again(tmp_path):
    done, new = make_jobs(tmp_path, 2)
    done.path.mkdir()
    (done.path / "metrics.json").write_text('{"val/acc": 0.25}')
    display, values = Display(), []
    waiting = iter([done, new])
    run_jobs(Executor(), display, lambda: next(waiting, None), lambda job, outcome: values.append(outcome.value))
    assert display.events == [("done", 0), ("start", 1), ("done", 1)]
    assert values == [0.25, 1.0]


def test_signal_stops_the_jobs_and_starts_no_new_one(tmp_path):
    executor, display = Executor(), Display()
    waiting = iter(make_jobs(tmp_path, 4))

    def ended(job, outcome):
        if not executor.stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        run_jobs(executor, display, lambda: next(waiting, None), ended)
    assert stopped.value.code == 143
    assert [event for event in display.events if event[0] == "start"] == [("start", 0), ("start", 1)]
    assert (tmp_path / "0" / "status.json").exists()
    assert executor.closed


def test_signal_while_a_job_is_started(tmp_path):
    """The executor does not know the job yet when the signal arrives."""

    class Slow(Executor):
        def start(self, job):
            os.kill(os.getpid(), signal.SIGTERM)
            self.stopped = False  # a signal before this line does not reach the job
            super().start(job)

    executor, ended = Slow(), []
    waiting = iter(make_jobs(tmp_path, 2))
    with pytest.raises(SystemExit):
        run_jobs(executor, Display(), lambda: next(waiting, None), lambda job, outcome: ended.append(outcome.state))
    assert ended == ["interrupted"]


def test_running_jobs_save_before_a_mistake_ends_the_sweep(tmp_path):
    """The third job cannot be composed."""
    executor = Executor()
    waiting = iter(make_jobs(tmp_path, 2))

    def next_job():
        if job := next(waiting, None):
            return job
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run_jobs(executor, Display(), next_job, lambda job, outcome: None)
    assert executor.stopped
    assert not executor.running
    assert (tmp_path / "0" / "status.json").exists(), "interrupted"
