"""Figures of a comparison."""

import pytest
from matplotlib.image import imread

from blitz.errors import UserError
from blitz.runs.compare import PlotData
from blitz.runs.plot import Scale, metric_against, parallel_coordinates, save

KEYS = {"optimizer": ["SGD", "Adam", "Adam"], "optimizer.lr": [0.1, 0.001, 0.01], "momentum": [0.9, None, None]}
VALUES = [0.5, 0.7, 0.6]


def test_numbers_that_span_decades_have_a_logarithmic_axis():
    scale = Scale([0.001, 0.01, 0.1])
    assert [scale.position(value) for value in (0.001, 0.01, 0.1)] == pytest.approx([-3, -2, -1])
    assert scale.ticks() == {-3: "0.001", -2: "0.01", -1: "0.1"}
    assert Scale([1, 2, 3]).position(2) == 2
    assert not Scale([0, 100]).logarithmic


def test_categories_and_missing_values():
    scale = Scale(["b", None, "a", True])
    assert scale.ticks() == {-1: "none", 0: "True", 1: "a", 2: "b"}
    assert scale.limits == (-1, 2)
    assert Scale([None, None]).limits[0] < Scale([None, None]).limits[1]
    numbers = Scale([1.0, None, 2.0])
    assert numbers.position(None) < 1


def test_many_values_have_few_labels():
    assert list(Scale(range(100)).ticks().values()) == ["0", "14", "28", "42", "57", "71", "85", "99"]


@pytest.mark.parametrize(("minimized", "best"), [(False, 0.7), (True, 0.5)])
def test_parallel_coordinates(minimized, best):
    (axes,) = parallel_coordinates(KEYS, "val/x", VALUES, minimized).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["optimizer", "optimizer.\nlr", "momentum", "val/x"]
    runs = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(runs) == 3
    heights = {round(line.get_ydata()[3], 6): line for line in runs}
    assert sorted(heights) == [0, 0.5, 1]
    assert runs[-1] is heights[round((best - 0.5) / 0.2, 6)], "the best run is drawn on top"
    assert heights[1].get_ydata()[:3] == pytest.approx([0, 0, 0]), "Adam, 0.001 and no momentum lie at the bottom"


def test_metric_against_a_key():
    (axes,) = metric_against("lr", [1, 2, 2], "val/acc", VALUES).axes
    points, means = axes.lines
    assert list(zip(points.get_xdata(), points.get_ydata(), strict=True)) == [(1, 0.5), (2, 0.7), (2, 0.6)]
    assert list(zip(means.get_xdata(), means.get_ydata(), strict=True)) == [(1, 0.5), (2, pytest.approx(0.65))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "val/acc")


def test_file(tmp_path):
    data = PlotData(KEYS, "val/acc", VALUES, False)
    for key in (None, "optimizer"):
        save(data, tmp_path / "runs.png", key)
        assert imread(tmp_path / "runs.png").std() > 0
    with pytest.raises(UserError, match=r"^--plot .*runs\.pn: Format 'pn' is not supported.*; expected a file such as"):
        save(data, tmp_path / "runs.pn", None)
    with pytest.raises(UserError, match=r"^--plot .*No such file"):
        save(data, tmp_path / "absent" / "runs.png", None)
