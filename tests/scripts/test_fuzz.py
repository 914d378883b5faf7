"""Random mistakes in valid commands and files."""

import os
from pathlib import Path

import fuzz
import pytest

from tests import processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="scripts/fuzz.py needs os.fork")


def test_a_hundred_mistakes():
    """They run in a process of their own, because this one has threads."""
    scripts = Path(fuzz.__file__).parent
    program = f"import sys; sys.path.insert(0, {str(scripts)!r}); import fuzz; fuzz.main()"
    done = processes.run(program, "--cases", "100", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cases_repeat_by_seed_and_number(tmp_path):
    import random

    for directory in (tmp_path / "images" / "train" / "apple", tmp_path / "run"):
        directory.mkdir(parents=True)
        (directory / "0.png").write_bytes(bytes(50))
    keys = ["a", "b.c"]
    cases = [fuzz.make_case(random.Random("0 1"), tmp_path, keys).command for _ in range(2)]
    assert cases[0] == cases[1]


@pytest.mark.parametrize(
    ("outcome", "rule"),
    [
        (fuzz.Outcome(2, "blitz-train: x\n", False), "status 2"),
        (fuzz.Outcome(-9, "blitz-train: x\n", False), "status -9"),
        (fuzz.Outcome(1, "blitz-train: x\nblitz-train: y\n", False), "2 lines on stderr"),
        (fuzz.Outcome(1, "", False), "0 lines on stderr"),
        (fuzz.Outcome(1, "KeyError: x\n", False), "1 lines on stderr"),
        (fuzz.Outcome(1, "blitz-train: x\n", True), "a process outlives the program"),
        (fuzz.Outcome(1, "blitz-train: x\n", False), "changed or lost: a"),
        (fuzz.Outcome(1, "blitz-train: x\n", False), "left behind: config.yaml"),
        (fuzz.Outcome(0, "", False), "metrics.json: NaN is not JSON"),
        (fuzz.Outcome(0, "a warning\n", False), "lines on stderr"),
    ],
)
def test_broken_rule_is_noticed(outcome, rule, tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").touch()
    (tmp_path / "new" / "metrics.json").write_text("{'a': NaN}".replace("'", '"'))
    case = fuzz.Case(("blitz-train",), tmp_path / "new")
    assert rule in [
        line.removesuffix(", metrics.json")
        for line in fuzz.broken_rules(case, outcome, {tmp_path / "a": b"x"}, tmp_path)
    ]
