"""Dotted keys and special values of a config."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

TOTAL_STEPS = "total_steps"  # in a schedule's config: the number of optimizer steps that the trainer will take
_FRACTION = re.compile(rf"(\d*\.?\d+) \* {TOTAL_STEPS}")


def needs_total_steps(value: Any) -> bool:
    """Return whether a value of a schedule's config is ``total_steps`` or a fraction, such as ``0.1 * total_steps``."""
    return isinstance(value, str) and (value == TOTAL_STEPS or _FRACTION.fullmatch(value) is not None)


def number_of_steps(value: str, total: int) -> int:
    """Return the number of steps for ``total_steps`` or a fraction of it."""
    fraction = _FRACTION.fullmatch(value)
    return round(float(fraction[1]) * total) if fraction else total


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match ``pattern``, such as ``net.fc*``, or that lie below it, such as below ``net.fc1``."""
    return [name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every ``(dotted key, value)`` of nested plain dicts and lists."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
