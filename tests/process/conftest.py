"""Signal handlers as in a foreground process: a shell lets its background jobs ignore Ctrl-C."""

import signal

import pytest

from blitz.process.signals import SIGNALS


@pytest.fixture(autouse=True)
def _default_handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
