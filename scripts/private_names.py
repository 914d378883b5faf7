"""List the private names of libraries that ``src/`` uses; fail if one of them has no reason beside it.

``make lint`` runs it after ruff, whose SLF001 covers only attributes of other objects. This script also finds imports
of private modules and names, private attributes that a class inherits from a library, and overridden private methods.
Each use needs a comment on its line: ``# noqa: SLF001 - reason`` if ruff reports it, otherwise ``# private: reason``.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blitz.config.paths import PROJECT

SRC = PROJECT / "src"
LIMIT = 15
PUBLIC = {"_exit", "_replace", "_asdict", "_fields"}  # documented, in spite of the underscore
REASON = re.compile(r"# (?:noqa: SLF001 - |private: )(\S.*)")


class Use(NamedTuple):
    """A line of ``src/`` with a private name of a library."""

    path: Path
    line: int
    name: str


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC and name != "_"


def uses_in(path: Path, own_names: set[str]) -> Iterator[Use]:
    """Yield the private imports and attributes of a file, except ``own_names``, which ``src/`` defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = (f"{node.module}.{alias.name}" for alias in node.names)
            names = [name for name in imported if any(map(is_private, name.split(".")))]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own_names:
            names = [node.attr]
        yield from (Use(path, node.lineno, name) for name in names)


def defined_in(path: Path) -> Iterator[str]:
    """Yield the private names that a file defines: functions, classes, and attributes that are assigned to ``self``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield from ([node.attr] if node.value.id in ("self", "cls") else [])


def overridden_in(path: Path) -> Iterator[Use]:
    """Yield the methods of a module that override a private method of a library's class."""
    parts = path.relative_to(SRC).with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    for own in (value for value in vars(module).values() if isinstance(value, type)):
        if own.__module__ != module.__name__:
            continue
        for name, method in vars(own).items():
            foreign = (base for base in own.__mro__[1:] if not base.__module__.startswith("blitz."))
            if is_private(name) and inspect.isfunction(method) and any(name in vars(base) for base in foreign):
                yield Use(path, method.__code__.co_firstlineno, f"{own.__name__}.{name}")


def main() -> int:
    files = sorted(SRC.rglob("*.py"))
    own_names = {name for path in files for name in defined_in(path)}
    uses = sorted({use for path in files for use in (*uses_in(path, own_names), *overridden_in(path))})
    unexplained = 0
    for use in uses:
        reason = REASON.search(use.path.read_text(encoding="utf-8").splitlines()[use.line - 1])
        unexplained += reason is None
        print(f"{use.path.relative_to(PROJECT)}:{use.line}: {use.name}: {reason[1] if reason else 'NO REASON GIVEN'}")
    print(f"{len(uses)} private names of libraries; at most {LIMIT} are allowed, each with a reason")
    return int(unexplained > 0 or len(uses) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
