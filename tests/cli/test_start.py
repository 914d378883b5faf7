"""Signals before the program is imported. Real signals arrive at real processes."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "hydra":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from blitz.train import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows os.kill ends a process, whatever the signal is")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_during_the_imports(number, status, tmp_path):
    arguments = [sys.executable, "-c", PROGRAM.format(number=int(number))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
