"""Figures, compared with the values that they show."""

import gc
import io
import weakref

import torch
from matplotlib import pyplot
from PIL import Image

from blitz import plots

CLASSES = ["cat", "dog", "$x$"]


def pixels(figure):
    """Return the drawn figure, uint8 ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8).reshape(
        *canvas.get_width_height()[::-1], 4
    )[..., :3]


def test_confusion_matrix_shows_each_count():
    confusion = torch.tensor([[5, 0, 1], [2, 7, 0], [0, 0, 9]])
    figure = plots.confusion_matrix(confusion, CLASSES)
    (axes,) = figure.axes
    shown = {text.get_position(): text.get_text() for text in axes.texts if text.get_visible()}
    assert shown == {(0, 0): "5", (2, 0): "1", (0, 1): "2", (1, 1): "7", (2, 2): "9"}, "(predicted, true)"
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert torch.equal(torch.as_tensor(axes.images[0].get_array()), confusion)
    assert pixels(figure).float().std() > 10


def test_many_classes_have_no_counts_and_short_names():
    names = [f"a long name of class {index}" for index in range(plots.MAX_COUNTS + 1)]
    figure = plots.confusion_matrix(torch.eye(len(names), dtype=torch.long), names)
    assert not figure.axes[0].texts
    assert {len(label.get_text()) for label in figure.axes[0].get_xticklabels()} == {plots.NAME_LENGTH}


def test_titles_of_predictions():
    names = ["cat", "$x$", "$x$"]
    figure = plots.prediction_grid(torch.rand(3, 1, 8, 8), names, [0.5, 0.987, 1.0], ["cat", "dog", "$x$"])
    titles = [(text.get_text(), text.get_color()) for text in figure.texts]
    assert titles == [
        ("cat (50%)\ntruth: cat", "green"), ("$x$ (99%)\ntruth: dog", "red"), ("$x$ (100%)\ntruth: $x$", "green"),
    ]  # fmt: skip
    unknown = plots.prediction_grid(torch.rand(3, 1, 8, 8), names, [0.5, 0.987, 1.0])
    assert [(text.get_text(), text.get_color()) for text in unknown.texts][1] == ("$x$ (99%)", "black")


def test_figure_as_a_file():
    figure = plots.image_grid(torch.rand(2, 1, 8, 8), ["a", "b"])
    with Image.open(io.BytesIO(plots.as_png(figure))) as picture:
        assert picture.format == "PNG"
        assert (picture.height, picture.width) == tuple(pixels(figure).shape[:2])


def test_images_lie_below_their_titles():
    """Each image is drawn pixel by pixel, enlarged, from left to right and from top to bottom."""
    images = torch.zeros(5, 3, 48, 48)
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    images += colors[:, :, None, None]
    drawn = pixels(plots.image_grid(images, ["a"] * 5))
    assert torch.equal(drawn, pixels(plots.image_grid((images * 255).byte(), ["a"] * 5)))
    width, height = 2 * 48 + 2 * plots.GAP, 2 * 48 + 2 * plots.GAP + plots.LINE
    assert drawn.shape == (2 * height, 4 * width, 3)
    for index, color in enumerate(colors):
        row, column = divmod(index, 4)
        image = drawn[row * height : (row + 1) * height, column * width : (column + 1) * width]
        inside = image[plots.LINE + plots.GAP : -plots.GAP, plots.GAP : -plots.GAP]
        assert (inside == (color * 255).byte()).all()
        title = image[: plots.LINE]
        assert title.float().mean() > 200, "white"
        assert (title < 100).any(), "with text"
    assert (drawn[height:, width:] == 255).all(), "the rest of the last row is white"


def test_shape_of_the_grid():
    """One image is as large as one of many, and many images form a square."""

    def size(n):
        return tuple(pixels(plots.image_grid(torch.rand(n, 1, 48, 48), ["a"] * n)).shape[:2])

    height, width = size(1)
    assert size(4) == (height, width)
    assert size(16) == (4 * height, width)
    assert size(64) == (8 * height, 2 * width)


def test_figures_are_freed():
    """Figures of ``pyplot`` would stay open, as those of other tests may."""
    opened = pyplot.get_fignums()
    confusion = torch.eye(3, dtype=torch.long)
    figures = [
        weakref.ref(plots.confusion_matrix(confusion, CLASSES)),
        weakref.ref(plots.prediction_grid(torch.rand(2, 1, 8, 8), ["cat", "dog"], [0.5, 0.9])),
    ]
    gc.collect()
    assert [figure() for figure in figures] == [None, None]
    assert pyplot.get_fignums() == opened
