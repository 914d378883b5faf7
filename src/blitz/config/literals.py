"""Protect text that OmegaConf must not interpret, such as names of class directories and values of recorded configs.

OmegaConf interpolates text with ``${`` and takes ``???`` for a missing value. Escaping is not enough, because some
values are resolved once and others twice. Therefore a NUL is inserted into such text while it is in a DictConfig. No
path, environment variable or command line can contain a NUL.
"""

from typing import Any

MARK = "\0"


def protect(node: Any) -> Any:
    """Return a copy of nested dicts and lists in which OmegaConf does not interpret any text."""
    if isinstance(node, dict):
        return {key: protect(value) for key, value in node.items()}
    if isinstance(node, list):
        return [protect(value) for value in node]
    if isinstance(node, str):
        return f"?{MARK}??" if node == "???" else node.replace("${", f"${MARK}{{")
    return node


def plain(node: Any) -> Any:
    """Undo ``protect``: return a copy of nested dicts and lists with the original text."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node.replace(MARK, "") if isinstance(node, str) else node
