"""Instantiation of a recorded config: plain containers in which every interpolation is already resolved."""

from typing import Any

import hydra.utils

from blitz.config.literals import protect

BUILDERS = ("torchvision.models.", "timm.", "blitz.model.pretrained.")
NO_WEIGHTS = {"weights": None, "weights_backbone": None, "pretrained": False}  # arguments of torchvision and timm


def instantiate(node: Any) -> Any:
    """Create the object that a plain node describes by its ``_target_`` and arguments, as Hydra does.

    Both training and loading call this function. A literal ``${``, for example in a class name, is not interpolated.
    """
    return hydra.utils.instantiate(_protect(node), _convert_="all")


def without_pretrained_weights(node: Any) -> Any:
    """Return a node that builds the same networks of torchvision and timm, but reads no pretrained weights."""
    if isinstance(node, list):
        return [without_pretrained_weights(value) for value in node]
    if not isinstance(node, dict):
        return node
    changed = {key: without_pretrained_weights(value) for key, value in node.items()}
    if str(node.get("_target_")).startswith(BUILDERS):
        changed |= {key: value for key, value in NO_WEIGHTS.items() if key in node}
    return changed


def decode(hexadecimal: str) -> str:
    """Return the text that ``_protect`` encoded."""
    return bytes.fromhex(hexadecimal).decode()


def _protect(node: Any) -> Any:
    """Replace text that OmegaConf would interpret with a node that decodes it: Hydra does not resolve its result."""
    if isinstance(node, dict):
        return {key: _protect(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_protect(value) for value in node]
    if protect(node) != node:
        return {"_target_": f"{__name__}.{decode.__name__}", "hexadecimal": node.encode().hex()}
    return node
