"""A trained model in the form that ``blitz-export`` writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Exportable:
    """A module from raw inputs to predictions, and how to compare it with the task that it comes from.

    Args:
        module: in evaluation mode on the CPU; its only argument is a batch of raw inputs.
        example: a batch of two raw inputs. The exported model accepts other batch sizes, but no other shape.
        input: name of the module's input.
        output: name of the module's output.
        raw: returns the raw inputs of a batch of the data set.
        original: returns the output of the task for the same batch.
        metadata: classes, sizes and everything else that a user of the file needs; JSON must be able to hold it.
    """

    module: nn.Module
    example: Tensor
    input: str
    output: str
    raw: Callable[[Any], Tensor]
    original: Callable[[Any], Tensor]
    metadata: Mapping[str, Any]
