"""The proof's machinery on four kills: that it finds nothing, and that it would find something."""

import os
import subprocess
import sys

import pytest

from blitz.config.paths import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks with torch loaded")
PROVE = "import sys, resume; sys.exit(resume.main(sys.argv[1:]))"
FORGET = "from blitz.callback.last_checkpoint import LastCheckpoint; LastCheckpoint.restore_random = lambda self: None"
ROW = "onecycle, adamw, accumulation 2"


def prove(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (PROJECT / "scripts", PROJECT / "src")))}
    words = [sys.executable, "-c", program, "--quick", "--markdown", "--rows", ROW]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, cwd=PROJECT)


def test_identical():
    done = prove(PROVE)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if ROW in line)
    assert [cell.strip() for cell in row.strip().strip("|").split("|")] == [ROW, "4", "4", "1"]
    assert "4 of 4 killed and resumed runs are identical; " in done.stdout.splitlines()[-1]


def test_a_difference_is_told():
    done = prove(f"{FORGET}; {PROVE}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"differs: {ROW}, killed " in done.stdout
    assert "state_dict" in done.stdout
