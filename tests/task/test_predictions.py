"""Predicted classes, as values and as text."""

import pytest
import torch

from blitz.task.predictions import Predictions

PROBABILITIES = torch.tensor([[0.1, 0.7, 0.2, 0.0], [0.25, 0.25, 0.0, 0.5]])


@pytest.fixture
def predictions():
    return Predictions(["ant", "bee", "cat", "dog"], PROBABILITIES)


def test_values(predictions):
    assert predictions.names == ["bee", "dog"]
    assert predictions.confidences.tolist() == pytest.approx([0.7, 0.5])
    assert predictions[1].probabilities == {"ant": 0.25, "bee": 0.25, "cat": 0.0, "dog": 0.5}
    assert [found.name for found in predictions] == ["bee", "dog"]
    assert predictions[-1:].names == ["dog"]
    assert len(predictions) == 2


def test_text(predictions):
    assert str(predictions[0]) == "bee 70.0 %, cat 20.0 %, ant 10.0 %"
    assert repr(predictions) == "bee 70.0 %, cat 20.0 %, ant 10.0 %\ndog 50.0 %, ant 25.0 %, bee 25.0 %"
    many = Predictions(predictions.classes, PROBABILITIES.repeat(1000, 1))
    assert repr(many).splitlines()[-1] == "and 1,980 more"
    assert len(repr(many).splitlines()) == 21
