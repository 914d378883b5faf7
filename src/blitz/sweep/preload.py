"""Import what every job imports, in the server that forks them. A job whose process is new imports it by itself."""

import atexit
import contextlib
import gc
import os
from importlib import import_module

gc.disable()
with contextlib.suppress(Exception):  # a job reports what cannot be imported
    for name in (
        "blitz.training.build", "blitz.training.rehearsal", "blitz.training.results", "blitz.training.tune",
        "blitz.runs.resume", "blitz.sweep.attempt", "blitz.terminal", "blitz.train",
    ):  # fmt: skip
        import_module(name)
atexit.register(os._exit, 0)  # the server has nothing to save, and deleting torch's objects takes a second
gc.freeze()  # no fork searches these objects, which would copy them
gc.enable()
