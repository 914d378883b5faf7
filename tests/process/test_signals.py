"""Signals that ask a process to end."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from blitz.process import signals

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="on Windows os.kill ends a process, whatever the signal"
)


def test_handlers_are_restored():
    received = []
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.handled_by(lambda number, _: received.append(number)):
        for number in signals.SIGNALS:
            signal.raise_signal(number)
    assert received == list(signals.SIGNALS)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    received = []
    with signals.handled_by(lambda number, _: received.append(number)):
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert received == []


def test_outside_the_main_thread_nothing_changes():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with signals.exit_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_a_stop_request_is_noted_with_its_exit_status(name, status):
    request = signals.StopRequest()
    with request.noted():
        signal.raise_signal(signal.Signals[name])
    assert request.received is signal.Signals[name]
    assert request.status == status


def test_a_second_interrupt_ends_the_process():
    request = signals.StopRequest()
    with request.noted():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit, match="130"):
            signal.raise_signal(signal.SIGINT)


def test_the_users_handler_is_called_and_restored():
    received = []

    def users(number, _):
        received.append(number)

    signal.signal(signal.SIGUSR1, users)
    request = signals.StopRequest()
    with request.noted():
        signal.raise_signal(signal.SIGUSR1)
    assert request.received is signal.SIGUSR1
    assert received == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is users


def test_the_handler_of_the_command_line_is_not_called():
    """It would end the process before the run is saved."""
    with signals.exit_on_signals():
        request = signals.StopRequest()
        with request.noted():
            signal.raise_signal(signal.SIGTERM)
    assert request.received is signal.SIGTERM


def test_handlers_installed_meanwhile_are_not_restored():
    """Lightning's handler for several processes may wait forever."""
    before = signal.getsignal(signal.SIGTERM)
    request = signals.StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: None)
    with request.noted():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR2", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_block_that_turns_it_into_another_exception(name, status):
    before = signal.getsignal(signal.Signals[name])

    @signals.exit_on_signals()
    def import_something():
        try:
            signal.raise_signal(signal.Signals[name])
        except BaseException as error:
            raise ImportError("as libraries do") from error

    with pytest.raises(SystemExit) as ended:
        import_something()
    assert ended.value.code == status
    assert signal.getsignal(signal.Signals[name]) is before


SWALLOWING = """
import contextlib, os, signal, time
from blitz.process import signals
with signals.exit_on_signals():
    for time_ in range({times}):
        with contextlib.suppress(BaseException):
            if time_ == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    {last}
"""


@pytest.mark.parametrize("last", ["pass", "time.sleep(60)"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_that_is_swallowed_ends_the_process_nevertheless(times, last):
    """The exception is raised again after a while, and then the process ends at once."""
    program = SWALLOWING.format(times=times, last=last)
    done = subprocess.run([sys.executable, "-c", program], timeout=50, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


def test_a_blocked_signal_reaches_a_new_process_once_it_is_ready():
    program = "import time; from blitz.process.signals import *\nwith exit_on_signals(): unblock(); time.sleep(60)"
    with signals.blocked():
        child = subprocess.Popen([sys.executable, "-c", program])
        child.send_signal(signal.SIGINT)
    assert child.wait(50) == 130


def test_signals_are_forwarded_as_sigterm():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with signals.forwarded_to({0: child}) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert child.wait(30) == -signal.SIGTERM
    assert received == [signal.SIGUSR1]
