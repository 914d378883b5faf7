"""One process at a time holds a directory: real processes, killed for real."""

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from blitz.runs import folder, lock
from tests import processes
from tests.conftest import OVERRIDES, contents

HOLD = """
import sys, time
from pathlib import Path
from blitz.runs import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
ACQUIRE = """
import sys
from pathlib import Path
from tests.runs.test_lock import acquire_repeatedly
print(acquire_repeatedly(Path(sys.argv[1]), 1))
"""


@contextlib.contextmanager
def holder(directory):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_second_process_is_told_who_holds_the_lock(tmp_path):
    with holder(tmp_path) as process, pytest.raises(ValueError, match="in use") as refusal, lock.hold(tmp_path):
        pass
    who = f"process {process.pid} on host {socket.gethostname()}"
    assert str(refusal.value) == f"{tmp_path} is in use by {who}; wait for it, or end it first"


def test_dead_process_holds_no_lock(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / lock.NAME).exists()
        with lock.hold(tmp_path):
            assert (tmp_path / lock.NAME).read_text().split()[0] == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_lock_is_exclusive_within_a_process(tmp_path):
    with lock.hold(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} "), lock.hold(tmp_path):
        pass
    with lock.hold(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_forked_worker_does_not_hold_the_lock(tmp_path):
    """A data loader's worker lives for seconds after its parent was killed."""
    program = HOLD.replace('print("held"', 'worker = __import__("os").fork()\n    if worker: print("held"')
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            process.kill()
            process.wait()
            assert any(_is_free(tmp_path) for _ in range(50)), "the worker itself lives for minutes"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _is_free(directory):
    """Return whether the lock is free. A worker releases it first of all, a moment after the fork."""
    try:
        with lock.hold(directory):
            return True
    except ValueError:
        time.sleep(0.1)
        return False


def test_state_of_the_lock_is_read_without_a_change(tmp_path):
    assert not lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path / "absent")
    assert contents(tmp_path) == {}
    with holder(tmp_path) as process:
        before = contents(tmp_path)
        assert lock.is_held(tmp_path)
        assert contents(tmp_path) == before
        process.kill()
        process.wait()
        assert not lock.is_held(tmp_path)
        assert contents(tmp_path) == before, "the dead process left its file"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no shared locks")
def test_reading_the_state_of_the_lock_refuses_nobody(tmp_path):
    """A reader has the lock for some microseconds. Other readers share it, and a run waits for it."""
    (tmp_path / lock.NAME).touch()
    reader = os.open(tmp_path / lock.NAME, os.O_RDONLY)
    lock._lock(reader, shared=True)
    assert not lock.is_held(tmp_path)
    release = threading.Timer(0.03, os.close, [reader])
    release.start()
    with lock.hold(tmp_path):
        assert lock.is_held(tmp_path)
    release.join()


def acquire_repeatedly(directory, seconds):
    """Return the number of times that this process was inside, alone."""
    end, inside = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with contextlib.suppress(ValueError), lock.hold(directory):
            marker = os.open(directory / "inside", os.O_CREAT | os.O_EXCL)  # fails if another process is inside
            os.close(marker)
            (directory / "inside").unlink()
            inside += 1
    return inside


def test_lock_is_exclusive_although_its_file_is_removed(tmp_path):
    started = [processes.start(ACQUIRE, tmp_path) for _ in range(3)]
    texts = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], texts
    assert sum(int(out) for out, _ in texts) > 50
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_gives_a_warning(code, tmp_path, monkeypatch, capsys):
    def unable(file):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock, "_lock", unable)
    with lock.hold(tmp_path):
        pass
    assert re.fullmatch(r".*: its file system has no locks; .*\n", capsys.readouterr().err)


def test_name_of_the_holder_is_awaited(tmp_path):
    """A process acquires the lock a moment before it writes its name."""
    path = tmp_path / lock.NAME
    path.touch()
    threading.Timer(0.05, lambda: path.write_text("7 gpu01")).start()
    assert lock._holder(path) == "process 7 on host gpu01"


def test_run_in_use_is_not_resumed(unfinished, refused):
    before = contents(unfinished)
    with lock.hold(unfinished):
        message = refused(f"resume={unfinished}")
    assert f"{unfinished} is in use by process {os.getpid()} on host " in message
    assert contents(unfinished) == before


def test_new_run_holds_its_directory_and_leaves_no_lock(refused, tmp_path, monkeypatch):
    run, locks = tmp_path / "run", []

    def create(*_, **__):
        locks.append((run / lock.NAME).read_text())
        raise ValueError("enough")

    monkeypatch.setattr(folder, "create_run", create)
    refused(*OVERRIDES, f"hydra.run.dir={run}")
    assert locks[0].split()[0] == str(os.getpid())
    assert not run.exists()
