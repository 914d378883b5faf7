"""The server that forks the jobs of a sweep."""

import subprocess
import sys

from blitz.config.paths import PROJECT

PROGRAM = """
import blitz.sweep.preload, gc, sys, threading
print("lightning" in sys.modules, "torch._dynamo" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 10_000)
import torch
print(torch.cuda.is_initialized(), threading.active_count())
"""


def test_server_imports_everything_and_can_be_forked():
    """Neither CUDA's state nor a thread survives a fork."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True", "True", "True", "False", "1"]
    assert done.stderr == ""
