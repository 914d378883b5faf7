"""Dotted keys and special values of a config."""

from collections.abc import Iterator
from typing import Any

TOTAL_STEPS = "total_steps"  # in a schedule's config: the number of optimizer steps that the trainer will take


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every ``(dotted key, value)`` of nested plain dicts and lists."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
