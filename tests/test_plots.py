"""Figures, compared with what they draw."""

import io

import torch
from PIL import Image

from blitz import plots


def images(n, channels=3):
    return torch.arange(n * channels * 16, dtype=torch.uint8).reshape(n, channels, 4, 4)


def test_titles_are_green_or_red():
    names = ["cat", "$x_1$", "a-very-long-name-of-a-class"]
    figure = plots.prediction_grid(images(3), names, [0.5, 0.934, 1.0], ["cat", "dog", names[2]])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "cat (50 %)\ntruth: cat",
        "$x_1$ (93 %)\ntruth: dog",
        "a-very-long-na… (100 %)\ntruth: a-very-long-na…",
    ]
    assert [axis.title.get_color() for axis in figure.axes] == ["green", "red", "green"]
    assert torch.equal(torch.from_numpy(figure.axes[1].images[0].get_array()), images(3)[1].permute(1, 2, 0))


def test_titles_are_black_if_the_truth_is_unknown():
    figure = plots.prediction_grid(images(9, channels=1), ["a"] * 9, [0.25] * 9)
    assert len(figure.axes) == 2 * plots.COLUMNS
    drawn = [axis for axis in figure.axes if axis.images]
    assert [(axis.get_title(), axis.title.get_color()) for axis in drawn] == [("a (25 %)", "black")] * 9
    with Image.open(io.BytesIO(plots.as_png(figure))) as picture:
        assert picture.format == "PNG"
