"""Instantiation of a recorded config: plain containers in which every interpolation is already resolved."""

from typing import Any

import hydra.utils

from blitz.config.literals import protect


def instantiate(node: Any) -> Any:
    """Create the object that a plain node describes by its ``_target_`` and arguments, as Hydra does.

    Both training and loading call this function. A literal ``${``, for example in a class name, is not interpolated.
    """
    return hydra.utils.instantiate(_protect(node), _convert_="all")


def decode(hexadecimal: str) -> str:
    """Return the text that ``_protect`` encoded."""
    return bytes.fromhex(hexadecimal).decode()


def _protect(node: Any) -> Any:
    """Replace text that OmegaConf would interpret by a node that decodes it: Hydra passes arguments on unchanged."""
    if isinstance(node, dict):
        return {key: _protect(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_protect(value) for value in node]
    if protect(node) != node:
        return {"_target_": f"{__name__}.{decode.__name__}", "hexadecimal": node.encode().hex()}
    return node
