"""Text that OmegaConf must not interpret, such as the names of discovered classes and the values of a recorded config.

OmegaConf interpolates text with ``${`` and takes ``???`` for a missing value. Escaping is not enough, because some
values are resolved once and others twice. Therefore such text holds a NUL as long as it is in a DictConfig. No path,
environment variable or command line can hold one.
"""

from typing import Any

MARK = "\0"


def protect(node: Any) -> Any:
    """Return a copy of plain containers that OmegaConf keeps unchanged in a DictConfig."""
    if isinstance(node, dict):
        return {key: protect(value) for key, value in node.items()}
    if isinstance(node, list):
        return [protect(value) for value in node]
    if isinstance(node, str):
        return f"?{MARK}??" if node == "???" else node.replace("${", f"${MARK}{{")
    return node


def plain(node: Any) -> Any:
    """Return a copy of plain containers, resolved from a DictConfig, with the text as it was before ``protect``."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node.replace(MARK, "") if isinstance(node, str) else node
