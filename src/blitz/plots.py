"""Functions from tensors to matplotlib figures.

Nobody has to close these figures. They do not belong to ``matplotlib.pyplot``, which would keep each one and might open
a window.
"""

import io
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.utils import make_grid

DPI = 90
COLUMNS = 4  # of a grid of images, at least
CELL = 96  # pixels of an image in a grid, about
LINE = 12  # pixels of a line of text above an image
GAP = 4  # pixels around an image
MAX_COUNTS = 30  # classes; the counts of more would not fit into the cells
NAME_LENGTH = 12  # characters of a class name in the title of an image
RIGHT, WRONG, NEUTRAL = "green", "red", "black"


def image_grid(images: Tensor, titles: Sequence[str], colors: Sequence[str] = ()) -> Figure:
    """Return images with a title above each, in about as many rows as columns.

    There are at least ``COLUMNS``, so that a few images are as large as many.

    Args:
        images: ``(n, channels, h, w)``, with 1 or 3 channels: float in [0, 1], or uint8.
        titles: one for each image.
        colors: one for each title. Empty: black.
    """
    n, _, height, width = images.shape
    columns, enlarged = max(COLUMNS, math.ceil(n**0.5)), max(1, round(CELL / width))
    lines = max(title.count("\n") + 1 for title in titles)
    padding = (GAP, GAP, LINE * lines + GAP, GAP)  # left, right, top, bottom
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    large = values.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
    cells = F.pad(large, padding, value=1.0)
    blank = torch.ones(max(0, columns - n), *cells.shape[1:])
    grid = make_grid(torch.cat([cells.cpu(), blank]), nrow=columns, padding=0, pad_value=1.0)
    figure = Figure(figsize=(grid.shape[2] / DPI, grid.shape[1] / DPI), dpi=DPI)
    figure.figimage(grid.permute(1, 2, 0).numpy(), vmin=0, vmax=1)  # 40 ms less than with axes
    cell = (width * enlarged + 2 * GAP, height * enlarged + LINE * lines + 2 * GAP)
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        x, y = (column + 0.5) * cell[0], row * cell[1] + LINE * lines + GAP // 2
        figure.text(
            x / grid.shape[2], 1 - y / grid.shape[1], title, ha="center", va="bottom", fontsize=7.5,
            color=colors[index] if colors else NEUTRAL, parse_math=False, linespacing=1.0,
        )  # fmt: skip
    return figure


def prediction_grid(
    images: Tensor, predicted: Sequence[str], confidences: Sequence[float], truths: Sequence[str] | None = None
) -> Figure:
    """Return images with their predicted class, its probability and the true class: green if right, red if wrong.

    Args:
        images: as for ``image_grid``.
        predicted: names of the predicted classes.
        confidences: probabilities of the predicted classes.
        truths: names of the true classes. None if they are unknown; the titles are then black.
    """
    titles = [f"{_shortened(name)} ({share:.0%})" for name, share in zip(predicted, confidences, strict=True)]
    if truths is None:
        return image_grid(images, titles)
    titles = [f"{title}\ntruth: {_shortened(name)}" for title, name in zip(titles, truths, strict=True)]
    return image_grid(images, titles, [RIGHT if a == b else WRONG for a, b in zip(predicted, truths, strict=True)])


def confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> Figure:
    """Return the plot of torchmetrics with labels that can be read. Cells without an image show no number.

    Args:
        confusion: int ``(classes, classes)``, with a row for each true class and a column for each predicted one.
    """
    n = len(classes)
    names = [_shortened(name) for name in classes]
    longest = max(map(len, names))
    side = min(16.0, max(3.0, 0.4 * n))
    margin = 0.6 + 0.085 * longest  # inches, of the labels
    size = (side + margin + 0.15, side + margin + 0.15)
    figure = Figure(figsize=size, dpi=DPI)
    share = side / size[0]
    axes = figure.add_axes((margin / size[0], margin / size[0], share, share))
    MulticlassConfusionMatrix(n).plot(confusion, ax=axes, add_text=n <= MAX_COUNTS, labels=names, cmap="Blues")
    for text in axes.texts:
        text.set_fontsize(8)
        text.set_visible(text.get_text() != "0")
    fontsize = min(9.0, 72 * 0.8 * side / n)
    for labels, rotation in ((axes.get_xticklabels(), 90 if longest > 3 else 0), (axes.get_yticklabels(), 0)):
        for label in labels:
            label.set(rotation=rotation, fontsize=fontsize, parse_math=False)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)
    return figure


def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi)
    return file.getvalue()


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
