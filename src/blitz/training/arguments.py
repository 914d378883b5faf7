"""Name the config key whose value a library refused.

Libraries rarely name the argument. Therefore the attempt is repeated without each argument in turn: if it succeeds
without one, that argument is at fault.
"""

import copy
import json
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from hydra.errors import InstantiationException
from hydra.utils import get_object

from blitz.config.instantiate import instantiate
from blitz.errors import UserError, reason

Config = dict[str, Any]
Keys = tuple[str, ...]
LIBRARIES = {sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")}


def build(config: Config, *path: str, **objects: Any) -> Any:
    """Instantiate the node of ``config`` at ``path``.

    Args:
        path: keys that lead to the node.
        objects: further arguments, which are not in the config.

    Raises:
        UserError: a library refused an argument; the message holds its key and value.
    """

    def attempt(config: Config) -> Any:
        node = _select(config, path)
        copies = {name: copy.copy(value) for name, value in objects.items()}  # Lightning's Trainer appends to its lists
        return instantiate(node | {"_partial_": True})(**copies) if objects else instantiate(node)

    suspects = list(_arguments(_select(config, path), *path))
    with named(config, attempt, lambda _: suspects):
        return attempt(config)


@contextmanager
def named(
    config: Config, attempt: Callable[[Config], Any], suspects: Callable[[BaseException], Iterable[Keys]] | None = None
) -> Iterator[None]:
    """Name the argument that a library refuses in ``attempt(config)``.

    Args:
        attempt: repeated with one argument less at a time, so it must not change anything.
        suspects: returns the paths of the arguments that may have caused an error. The default is the arguments that
            the error names, and those of the trainer, optimizer or schedule if it was raised there.

    Raises:
        UserError: with the key and the value, if the argument is found. Otherwise the error is raised unchanged.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if not _from_library(cause):
            raise
        text = reason(cause)
        paths = list(suspects(cause) if suspects else _suspects(cause, config))
        tests: tuple[Callable[[Keys], bool], ...] = (
            lambda path: f"{path[-1]}={_as_text(_select(config, path))}" in text,
            lambda path: _mentions(text, path[-1], _select(config, path)) or _succeeds_without(path, config, attempt),
            lambda path: f"'{path[-1]}'" in text,
        )
        for test in tests:
            for path in filter(test, paths):
                key = ".".join(_in_group(config, path))
                raise UserError(f"{key}={_as_text(_select(config, path))}: {text}") from error
        for path in sorted({path[:-1] for path in paths}, key=len, reverse=True):  # parts first
            node = _select(config, path)
            if "_target_" in node and _raised_in(node["_target_"], cause):
                plain = {key: value for key, value in node.items() if key[0] != "_" and not isinstance(value, dict)}
                arguments = ", ".join(f"{key}={_as_text(value)}" for key, value in plain.items())
                key = ".".join(_in_group(config, (*path, ""))[:-1])
                raise UserError(f"{key}: {node['_target_']} cannot use {arguments} ({text})") from error
        raise


def _from_library(error: BaseException) -> bool:
    """Return whether an installed package refused something. A ``UserError`` already names the key."""
    frames = traceback.extract_tb(error.__traceback__)
    installed = bool(frames) and any(Path(frames[-1].filename).is_relative_to(path) for path in LIBRARIES)
    return installed and not isinstance(error, UserError | ImportError)


def _mentions(reason: str, *words: Any) -> bool:
    return all(re.search(rf"(?<![\w.-]){re.escape(str(word))}(?![\w.]\w)", reason) for word in words)


def _succeeds_without(path: Keys, config: Config, attempt: Callable[[Config], Any]) -> bool:
    changed = copy.deepcopy(config)
    del _select(changed, path[:-1])[path[-1]]
    try:
        with warnings.catch_warnings(action="ignore"):
            attempt(changed)
    except Exception:  # another argument is at fault, or this one has no default
        return False
    return True


def _suspects(error: BaseException, config: Config) -> Iterator[Keys]:
    for path in _arguments(config):
        if _mentions(str(error), path[-1]):
            yield path
    if Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(lightning.__file__).parent):
        yield from _arguments(config["trainer"], "trainer")
    for path, node in _partial_nodes(config):
        if _raised_in(node["_target_"], error):
            yield from ((*path, key) for key in node if not key.startswith("_"))


def _partial_nodes(config: Config) -> Iterator[tuple[Keys, Config]]:
    """Yield the path and the node of each object that the task creates itself, such as an optimizer."""
    for path in _arguments(config["task"], "task"):
        node = _select(config, path)
        if isinstance(node, dict) and node.get("_partial_"):
            yield path, node


def _raised_in(target: str, error: BaseException) -> bool:
    """Return whether an error passed through the module of a target or of one of its base classes."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    made_by = get_object(target)
    parents = made_by.mro() if isinstance(made_by, type) else [made_by]
    return any(getattr(sys.modules[parent.__module__], "__file__", None) in files for parent in parents)


def _arguments(node: Any, *path: str) -> Iterator[Keys]:
    """Yield the path of each argument of the node at ``path`` and of the objects within it."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if not key.startswith("_"):
            yield *path, key
            yield from _arguments(value, *path, key)


def _as_text(value: Any) -> str:
    """Return a value in the notation of YAML and the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _select(node: Any, path: Keys) -> Any:
    for key in path:
        node = node[key]
    return node


def _in_group(config: Config, path: Keys) -> Keys:
    """Return the path in the config group: ``optimizer.lr`` instead of ``task.optimizer.lr``."""
    parent = _select(config, path[:-1])
    group = next((key for key, node in config.items() if path[0] == "task" and node == parent), None)
    return path if group is None else (group, path[-1])
