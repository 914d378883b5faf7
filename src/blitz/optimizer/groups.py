"""Functions that divide the parameters of a module into groups for an optimizer."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from blitz.config.keys import matching
from blitz.errors import UserError


def no_decay(module: nn.Module) -> list[dict[str, Any]]:
    """Return two groups: one with the optimizer's weight decay, and one without, for biases and normalization layers.

    The second group has all parameters of fewer than two dimensions. Decay would pull the scale of a normalization
    layer towards 0 (He et al., "Bag of Tricks for Image Classification", 2019, section 3.1).
    """
    parameters = list(module.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def by_name(module: nn.Module, groups: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one group for each pattern, and a last group for all other parameters.

    Args:
        groups: options of the optimizer, such as ``{lr: 1e-4}``, by the name of a layer, such as ``net.fc1``, or by a
            pattern of parameter names, such as ``net.fc*``. A parameter belongs to the first pattern that it matches.

    Raises:
        UserError: no parameter is left for a pattern.
    """
    rest = dict(module.named_parameters())
    found = []
    for pattern, options in groups.items():
        names = matching(rest, pattern)
        if not names:
            raise UserError(
                f"task.parameter_groups.groups.{pattern}: no parameter has such a name; "
                f"expected one of {', '.join(rest)}"
            )
        found.append({"params": [rest.pop(name) for name in names], **options})
    return [*found, *([{"params": list(rest.values())}] if rest else [])]
