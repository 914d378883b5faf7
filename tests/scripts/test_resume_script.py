"""scripts/resume.py on four kills: it finds no difference, and it finds one if there is one."""

import subprocess
import sys

import pytest

from blitz.config.paths import PROJECT
from tests import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script forks with torch loaded")
SCRIPTS = str(PROJECT / "scripts")
PROVE = f"import sys; sys.path.insert(0, {SCRIPTS!r}); import resume; sys.exit(resume.main(sys.argv[1:]))"
FORGET = "from blitz.process import random_state; random_state.put = lambda state: None"
ROW = "onecycle, adamw, accumulation 2"


def prove(program: str) -> subprocess.CompletedProcess[str]:
    return processes.run(program, "--quick", "--markdown", "--rows", ROW, timeout=240)


def test_identical():
    done = prove(PROVE)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if ROW in line)
    assert [cell.strip() for cell in row.strip().strip("|").split("|")] == [ROW, "4", "4", "1"]
    assert "4 of 4 killed and resumed runs are identical; " in done.stdout.splitlines()[-1]


def test_a_difference_is_reported():
    done = prove(f"{FORGET}; {PROVE}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"differs: {ROW}, killed " in done.stdout
    assert "state_dict" in done.stdout
