"""Imports run one way: entry points -> build, runs, report -> task, data, callback, model -> torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from blitz.config.paths import PROJECT

SRC = PROJECT / "src"
ROOMS = ("data", "task", "model", "callback", "logger", "device", "optimizer", "schedule")
HYDRA = {"train", "eval", "cli", "launch", "config", "frozen", "build"}  # the only ones that know it
NO_LIGHTNING = {"model", "optimizer", "schedule", "_transforms", "_random", "_loader", "augment", "plots"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted((SRC / "blitz").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports(path):
    parts = path.relative_to(SRC / "blitz").with_suffix("").parts
    names = imports(path)
    if not HYDRA & set(parts):
        assert not {n for n in names if n.split(".")[0] in ("hydra", "omegaconf")}, (
            "only entry points and build know Hydra"
        )
    if NO_LIGHTNING & set(parts):
        assert not {n for n in names if n.split(".")[0] in ("lightning", "torchmetrics")}
    if parts[0] in ROOMS:
        own = f"blitz.{parts[0]}"
        assert not {n for n in names if n.startswith("blitz") and not n.startswith(own)}, "rooms do not know each other"


def test_hydra_plugins_is_a_namespace_package():
    assert not (SRC / "hydra_plugins" / "__init__.py").exists()


def test_what_a_job_has_held_is_collected_though_imports_are_not():
    script = """
import gc, weakref
from blitz.cli import launch

class Held: ...

def task(cfg):
    held = Held()
    held.itself = held
    return weakref.ref(held)

held = launch._call(task, {})
assert gc.isenabled() and gc.get_freeze_count() > 100_000
gc.collect()
assert held() is None
"""
    subprocess.run([sys.executable, "-c", script], check=True)
