"""Predicted classes of images."""

from collections.abc import Sequence
from typing import NamedTuple, overload

from torch import Tensor

SHOWN = 20  # predictions in the text of a list
ALTERNATIVES = 2  # further classes in the text of a prediction


class Prediction(NamedTuple):
    """The most probable class of an image, its probability, and the probability of each class by name."""

    name: str
    confidence: float
    probabilities: dict[str, float]

    def __str__(self) -> str:
        others = sorted(self.probabilities.items(), key=lambda item: -item[1])
        others = [item for item in others if item[0] != self.name][:ALTERNATIVES]
        return ", ".join(f"{name} {value * 100:.1f} %" for name, value in [(self.name, self.confidence), *others])


class Predictions(Sequence[Prediction]):
    """Predictions for several images, one ``Prediction`` for each.

    Attributes:
        classes: names of the classes.
        probabilities: float32 ``(n, classes)``.
        names: the most probable class of each image.
        confidences: float32 ``(n,)``, the probabilities of these classes.
    """

    def __init__(self, classes: Sequence[str], probabilities: Tensor) -> None:
        self.classes = list(classes)
        self.probabilities = probabilities
        self.confidences, indices = probabilities.max(1)
        self.names = [self.classes[index] for index in indices.tolist()]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...

    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        if isinstance(index, slice):
            return Predictions(self.classes, self.probabilities[index])
        by_name = dict(zip(self.classes, self.probabilities[index].tolist(), strict=True))
        return Prediction(self.names[index], float(self.confidences[index]), by_name)

    def __repr__(self) -> str:
        lines = [str(prediction) for prediction in self[:SHOWN]]
        more = [f"and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return "\n".join([*lines, *more])
