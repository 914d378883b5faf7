"""Check that a network accepts the data of its task, before training."""

import torch
from torch import Tensor, nn

from blitz.errors import UserError


def output_shape(net: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Return the shape of the output for ``inputs``: images ``(n, channels, size, size)`` or vectors ``(n, features)``.

    The network is called in evaluation mode. Its state does not change.

    Raises:
        UserError: the network fails for these inputs.
    """
    training = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad():
            return tuple(net.eval()(inputs).shape)
    except (RuntimeError, ValueError) as error:
        name, reason = type(net).__name__, " ".join(str(error).split())
        if inputs.ndim != 4:
            raise UserError(f"data: {name} cannot take inputs of the shape {tuple(inputs.shape)} ({reason})") from error
        _, channels, size, _ = inputs.shape
        first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != channels:
            raise UserError(
                f"data.channels={channels}: {name} takes images with {first.in_channels} channels; "
                f"expected {first.in_channels}"
            ) from error
        raise UserError(
            f"data.image_size={size}: {name} cannot take {channels}x{size}x{size} images ({reason})"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
