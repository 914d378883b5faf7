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
        with signals.handled_by(signals.exit_at_once):
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
    with signals.handled_by(signals.exit_at_once):
        request = signals.StopRequest()
        with request.noted():
            signal.raise_signal(signal.SIGTERM)
    assert request.received is signal.SIGTERM


def test_signals_are_forwarded_as_sigterm():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with signals.forwarded_to({0: child}) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert child.wait(30) == -signal.SIGTERM
    assert received == [signal.SIGUSR1]
