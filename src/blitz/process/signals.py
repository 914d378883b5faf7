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
GRACE = 2.5  # seconds before SystemExit is raised again, and then before the process is ended
# Handlers from these packages end the process at once, so they must not run while the run is still to be saved.
NOT_CHAINED = ("blitz", "lightning", "pytorch_lightning", "signal", "_signal")


class Terminable(Protocol):
    """A process that accepts SIGTERM."""

    def terminate(self) -> None: ...


def exit_status(number: int) -> int:
    """Return 130 for Ctrl-C, and 143, the status of SIGTERM, for every other signal."""
    return INTERRUPTED if number == signal.SIGINT else STOPPED


@contextmanager
def handled_by(handler: Handler, afterwards: Mapping[signal.Signals, Any] | None = None) -> Iterator[None]:
    """Call ``handler(number, frame)`` for every signal that asks this process to end.

    Then restore the previous handlers, or install ``afterwards`` instead. A signal that the process ignores, as under
    nohup, stays ignored. Outside the main thread nothing changes, because Python delivers signals to the main thread
    only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = handlers()
    try:
        for number, before in previous.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, before in (afterwards or previous).items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


def handlers() -> dict[signal.Signals, Any]:
    """Return the current handler of each signal in ``SIGNALS``."""
    return {number: signal.getsignal(number) for number in SIGNALS}


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise ``SystemExit`` in the block if a signal asks this process to end. Lightning would exit with 1 and 0.

    The exception may be raised at any line, even within an import or a destructor, and libraries may swallow it or
    raise another one. So it is raised at the end of the block in any case. If the block still runs after
    ``GRACE`` seconds, it is raised again. After another ``GRACE`` seconds the process ends at once.
    """
    ending = _ExitHandler()
    with handled_by(ending):
        try:
            yield
        finally:
            ending.finish()
            if ending.status is not None:
                raise SystemExit(ending.status)


class _ExitHandler:
    """A signal handler that raises ``SystemExit``, and a thread that enforces it.

    The thread is started in advance and notified through a pipe, because a handler may interrupt code that holds a
    lock.
    """

    def __init__(self) -> None:
        self.status: int | None = None  # exit status, once a signal has arrived
        self._pid = os.getpid()
        self._receiver, self._sender = os.pipe()
        self._finished = threading.Event()
        threading.Thread(target=self._insist, name="signals", daemon=True).start()

    def __call__(self, number: int, _: Any) -> None:
        if os.getpid() != self._pid:  # a forked worker of a loader
            sys.exit(exit_status(number))
        if self.status is None:
            self.status = exit_status(number)
            os.write(self._sender, bytes([number]))
        sys.exit(self.status)

    def finish(self) -> None:
        """End the thread."""
        self._finished.set()
        os.write(self._sender, b"\0")

    def _insist(self) -> None:
        if number := ord(os.read(self._receiver, 1)):
            if not self._finished.wait(GRACE):
                _interrupt_main_thread(number)
            if not self._finished.wait(GRACE):
                os._exit(exit_status(number))
            os.read(self._receiver, 1)  # the byte of finish()
        os.close(self._receiver)
        os.close(self._sender)


def _interrupt_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill") and (thread := threading.main_thread().ident):
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)


@contextmanager
def blocked() -> Iterator[None]:
    """Block signals within the ``with`` block. Processes started in it block them until they call ``unblock``.

    Otherwise a signal could end a new process before it has installed its handlers.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Unblock the signals that were ``blocked`` when this process was started. Pending ones are delivered."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


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


def ignore_all_but_sigterm() -> None:
    """Ignore all ``SIGNALS`` but SIGTERM, in a process whose parent handles signals and forwards SIGTERM.

    A terminal or a scheduler may send its signal to all processes of a job.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """The latest signal that asked the process to end, until the run reaches a moment at which it can be saved.

    Create it before other libraries install handlers: those of the user, found then, are called as well.
    """

    received: signal.Signals | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._before = handlers()
        self._chained = {number: handler for number, handler in self._before.items() if _is_users(handler)}

    @property
    def status(self) -> int:
        """The exit status to end with."""
        return exit_status(self.received or signal.SIGTERM)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Store signals in ``received``. A second Ctrl-C ends the process.

        Then restore the handlers that ``__init__`` found. With several processes, Lightning's may wait forever.
        """
        with handled_by(self._note, self._before):
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
