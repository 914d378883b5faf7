"""Draw a comparison of runs as figures of matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from blitz.errors import UserError, reason
from blitz.runs.compare import PlotData

MANY = 100  # runs whose lines are thinner
WIDE = 30  # a ratio of the largest to the smallest value from which an axis is logarithmic


def save(data: PlotData, path: Path, key: str | None) -> None:
    """Draw the metric against ``key``, or against all keys, and write the figure.

    Raises:
        UserError: the file cannot be written, or its name has no known extension.
    """
    if key is None:
        figure = parallel_coordinates(data.keys, data.metric, data.values, data.minimized)
    else:
        figure = metric_against(key, data.keys[key], data.metric, data.values)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--plot {path}: {reason(error)}; expected a file such as runs.png, runs.pdf or runs.svg"
        ) from error


class Scale:
    """Positions of values on an axis: numbers, on a logarithmic axis if they span decades, or categories."""

    def __init__(self, values: Sequence[Any]) -> None:
        known = {value for value in values if value is not None}
        self.numeric = len(known) > 0 and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in known
        )
        if self.numeric:
            self.choices = sorted(known)
            self.logarithmic = self.choices[0] > 0 and self.choices[-1] / self.choices[0] >= WIDE
        else:
            self.choices = sorted(known, key=str)
            self.logarithmic = False
        self.missing = None in values

    def position(self, value: Any) -> float:
        """Return the coordinate of a value: the number or its logarithm, or the index of the category."""
        if value is None:
            return self.missing_position
        if not self.numeric:
            return float(self.choices.index(value))
        return math.log10(value) if self.logarithmic else float(value)

    @property
    def missing_position(self) -> float:
        """Values that a run does not have lie below all others."""
        if not self.choices:
            return 0.0
        low, high = self.position(self.choices[0]), self.position(self.choices[-1])
        return low - ((high - low) / 5 if self.numeric and high > low else 1.0)

    @property
    def limits(self) -> tuple[float, float]:
        positions = [self.position(value) for value in (*self.choices, *([None] if self.missing else []))]
        low, high = min(positions), max(positions)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def ticks(self, at_most: int = 8) -> dict[float, str]:
        """Return labels by position: of all values if they are few, otherwise of evenly spaced ones."""
        n = len(self.choices)
        indices = range(n) if n <= at_most else [round(i * (n - 1) / (at_most - 1)) for i in range(at_most)]
        chosen = [self.choices[index] for index in indices]
        found = {self.position(value): f"{value:.4g}" if self.numeric else str(value) for value in chosen}
        return {self.missing_position: "none", **found} if self.missing else found


def parallel_coordinates(
    keys: dict[str, list[Any]], metric: str, values: Sequence[float], minimized: bool = False
) -> Figure:
    """Draw a line for each run across an axis for each key and one for the metric, in the colour of the metric.

    The best runs are yellow and on top.
    """
    scales = {key: Scale(column) for key, column in keys.items()} | {metric: Scale(values)}
    columns = [*keys.values(), list(values)]
    figure = Figure(figsize=(max(5.0, 1.9 * len(columns)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    colour, colours = Normalize(min(values), max(values)), colormaps["viridis_r" if minimized else "viridis"]
    width = 1.5 if len(values) < MANY else 0.6
    for row in sorted(zip(*columns, strict=True), key=lambda row: row[-1], reverse=minimized):
        heights = [_relative(scale, value) for scale, value in zip(scales.values(), row, strict=True)]
        axes.plot(range(len(row)), heights, color=colours(colour(row[-1])), lw=width, clip_on=False)
    for index, scale in enumerate(scales.values()):
        axes.axvline(index, color="black", linewidth=0.8)
        shown = _spread(values) if index == len(keys) else scale.ticks()
        for position, label in shown.items():
            low, high = scale.limits
            place = (index, (position - low) / (high - low))
            axes.annotate(
                label, place, xytext=(-4, 0), textcoords="offset points", ha="right", va="center", fontsize=8,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
            )  # fmt: skip
    axes.set_xticks(range(len(scales)), [name.replace(".", ".\n") for name in scales])
    axes.set_yticks([])
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.5, len(scales) - 0.9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def metric_against(key: str, xs: Sequence[Any], metric: str, values: Sequence[float]) -> Figure:
    """Draw a point for each run, and a line through the means of the runs with equal ``xs``."""
    scale = Scale(xs)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    positions = [scale.position(x) for x in xs]
    axes.plot(positions, values, "o", alpha=0.6, color="C0")
    means = {
        place: fmean(v for p, v in zip(positions, values, strict=True) if p == place)
        for place in sorted(set(positions))
    }
    axes.plot(
        list(means), list(means.values()), "-" if scale.numeric else "none", marker="_", markersize=14, color="C1"
    )
    _label(axes, scale, key, metric)
    return figure


def _label(axes: Axes, scale: Scale, key: str, metric: str) -> None:
    ticks = scale.ticks()
    crowded = sum(map(len, ticks.values())) > 40
    axes.set_xticks(
        list(ticks), list(ticks.values()), rotation=30 if crowded else 0, ha="right" if crowded else "center"
    )
    low, high = scale.limits
    margin = (high - low) / 15 if scale.numeric else 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(key)
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)


def _relative(scale: Scale, value: Any) -> float:
    low, high = scale.limits
    return (scale.position(value) - low) / (high - low)


def _spread(values: Sequence[float], n: int = 5) -> dict[float, str]:
    """Return labels of evenly spaced positions between the smallest and the largest value."""
    low, high = min(values), max(values)
    return {low + (high - low) * i / (n - 1): f"{low + (high - low) * i / (n - 1):.4g}" for i in range(n)}
