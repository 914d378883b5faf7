"""Signals that ask a process to end, noted for a moment at which it can."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SLURM and other schedulers send which of them they are told to before they kill.
ASKED = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if name in signal.Signals.__members__
)


class Request:
    """``with request.heeded():`` notes the latest in ``request.by``; a second Ctrl-C ends the process at once."""

    by: signal.Signals | None = None

    @property
    def status(self) -> int:
        """What the process ends with: as if SIGTERM had ended it, or Ctrl-C where it was that."""
        return 128 + (signal.SIGINT if self.by is signal.SIGINT else signal.SIGTERM)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python has signals in the main thread alone
            return
        before = {number: signal.getsignal(number) for number in ASKED}
        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, self._note)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.by is signal.SIGINT:
            raise SystemExit(self.status)
        self.by = signal.Signals(number)
        if number == signal.SIGINT:
            os.write(1, b"\nfinishing the step and saving; Ctrl-C again stops at once\n")  # print() may be at work
