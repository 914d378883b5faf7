"""Signals that ask a process to end: handle them, note them until a safe moment, or forward them to other processes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

Handler = Callable[[int, Any], Any]

# Schedulers send whichever of these they are configured to send before they kill a job.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if name in signal.Signals.__members__
)
STOPPED = 128 + signal.SIGTERM  # exit status of a process that saved its run because a signal asked it to end
INTERRUPTED = 128 + signal.SIGINT
# Handlers from these packages end the process at once, so they must not run while the run is still to be saved.
NOT_CHAINED = ("blitz", "lightning", "pytorch_lightning", "signal", "_signal")


class Terminable(Protocol):
    """A process that accepts SIGTERM."""

    def terminate(self) -> None: ...


def exit_status(number: int) -> int:
    """Return 130 for Ctrl-C, and 143, the status of SIGTERM, for every other signal."""
    return INTERRUPTED if number == signal.SIGINT else STOPPED


def exit_at_once(number: int, _: Any) -> None:
    """Exit with the status that a shell gives to Ctrl-C or SIGTERM. Lightning would exit with 1 and 0."""
    sys.exit(exit_status(number))


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Call ``handler(number, frame)`` for every signal that asks this process to end, then restore the old handlers.

    A signal that the process ignores, as under nohup, stays ignored. Outside the main thread nothing changes, because
    Python delivers signals to the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, before in previous.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def forwarded_to(processes: Mapping[Any, Terminable]) -> Iterator[list[int]]:
    """Send SIGTERM to ``processes`` for every signal that asks this process to end. Yield the list of those received.

    A second Ctrl-C ends this process.
    """
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            sys.exit(INTERRUPTED)
        received.append(number)
        if number == signal.SIGINT:
            _announce_save()
        for process in processes.values():
            process.terminate()

    with handled_by(forward):
        yield received


def accept_only_sigterm() -> None:
    """Ignore every signal but SIGTERM, for a rank.

    A terminal or a scheduler may signal all processes of a job; the parent alone decides, and forwards SIGTERM.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, exit_at_once)


class StopRequest:
    """The latest signal that asked the process to end, until the run reaches a moment at which it can be saved.

    Create it before other libraries install handlers: those of the user, found then, are called as well.
    """

    received: signal.Signals | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        self._chained = {number: handler for number, handler in handlers.items() if _is_users(handler)}

    @property
    def status(self) -> int:
        """The exit status to end with."""
        return exit_status(self.received or signal.SIGTERM)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Store signals in ``received``. A second Ctrl-C ends the process."""
        with handled_by(self._note):
            yield

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            return  # a forked worker of a loader: it must fetch batches until the run is saved
        if number == signal.SIGINT and self.received is signal.SIGINT:
            raise SystemExit(self.status)
        self.received = signal.Signals(number)
        if number in self._chained:
            self._chained[self.received](number, frame)
        if number == signal.SIGINT:
            _announce_save()


def _is_users(handler: Any) -> bool:
    if not callable(handler):
        return False
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return module.partition(".")[0] not in NOT_CHAINED


def _announce_save() -> None:
    os.write(1, b"\nfinishing the step and saving; Ctrl-C again stops at once\n")  # print() is not reentrant
