"""One process at a time in a folder: real processes, really killed."""

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from blitz.runs import lock

HOLD = """
import sys, time
from pathlib import Path
from blitz.runs import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_holds_it(tmp_path):
    with holder(tmp_path) as process, pytest.raises(ValueError, match="in use") as refusal, lock.hold(tmp_path):
        pass
    who = f"process {process.pid} on host {socket.gethostname()}"
    assert str(refusal.value) == f"{tmp_path} is in use by {who}: wait for it, or end it first"


def test_a_dead_holder_holds_nothing(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / lock.NAME).exists()
        with lock.hold(tmp_path):
            assert (tmp_path / lock.NAME).read_text().split()[0] == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_in_one_process_too(tmp_path):
    with lock.hold(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} "), lock.held(tmp_path):
        pass
    with lock.hold(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_worker_does_not_hold_it(tmp_path):
    """As a data loader's, which lives on for seconds when its parent was killed."""
    program = HOLD.replace('print("held"', 'worker = __import__("os").fork()\n    if worker: print("held"')
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            process.kill()
            process.wait()
            assert any(_free(tmp_path) for _ in range(50)), "the worker lives for minutes"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _free(folder):
    """Asked a moment after the fork: the worker lets go as its first act."""
    try:
        with lock.hold(folder):
            return True
    except ValueError:
        time.sleep(0.1)
        return False


def _hammer(folder, counts, seconds):
    end, inside = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with contextlib.suppress(ValueError), lock.hold(folder):
            marker = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)  # fails where another is inside
            os.close(marker)
            (folder / "inside").unlink()
            inside += 1
    counts.put(inside)


def test_never_two_though_the_file_comes_and_goes(tmp_path):
    context = multiprocessing.get_context("spawn")
    counts = context.Queue()
    processes = [context.Process(target=_hammer, args=(tmp_path, counts, 1.0)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(counts.get() for _ in processes) > 50
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_it_warns_and_goes_on(code, tmp_path, monkeypatch, capsys):
    def unable(file):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "_lock", unable)
    with lock.hold(tmp_path):
        pass
    assert re.fullmatch(r".*: its file system has no locks; .*\n", capsys.readouterr().err)


def test_who_holds_it_is_waited_for(tmp_path):
    """The lock is there a moment before the name of its holder."""
    path = tmp_path / lock.NAME
    path.touch()
    threading.Timer(0.05, lambda: path.write_text("7 there")).start()
    assert lock._holder(path) == "process 7 on host there"
