"""Pure functions from tensors to matplotlib figures. They use no global state, so figures need not be closed."""

import io
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

RIGHT, WRONG, UNKNOWN = "green", "red", "black"  # colours of the titles of predictions
COLUMNS = 8
INCHES = (1.4, 1.75)  # width and height of an image with its title
LONGEST = 15  # characters of a class name in a title


def prediction_grid(
    images: Tensor, predicted: Sequence[str], confidences: Sequence[float], truths: Sequence[str] | None = None
) -> Figure:
    """Draw images with their predictions as titles: green if they are right, red if they are wrong.

    Args:
        images: uint8 ``(n, channels, h, w)``, with 1 or 3 channels.
        predicted: names of the predicted classes.
        confidences: probabilities of the predicted classes.
        truths: names of the true classes. None if they are unknown; the titles are then black.
    """
    columns = max(1, min(COLUMNS, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(INCHES[0] * columns, INCHES[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for row, (axis, image) in enumerate(zip(axes, images, strict=False)):
        axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        lines = [f"{_shorten(predicted[row])} ({confidences[row] * 100:.0f} %)"]
        color = UNKNOWN
        if truths is not None:
            lines.append(f"truth: {_shorten(truths[row])}")
            color = RIGHT if truths[row] == predicted[row] else WRONG
        axis.set_title("\n".join(lines), color=color, fontsize=8, parse_math=False)
    return figure


def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
