"""Instantiation of a recorded config: plain containers in which every interpolation is already resolved."""

import re
from typing import Any

import hydra.utils


def instantiate(node: Any) -> Any:
    """Return the object that a plain node describes, by its ``_target_`` and arguments, as Hydra makes it.

    Training and loading use it alike. ``${`` in a text is text, for example of a class name, and not interpolated.
    """
    return hydra.utils.instantiate(_escape(node), _convert_="all")


def _escape(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _escape(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escape(value) for value in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node
