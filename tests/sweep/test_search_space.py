"""Overrides in Hydra's syntax as distributions of Optuna."""

from types import SimpleNamespace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from blitz.errors import UserError
from blitz.sweep.search_space import parse

LOADER = SimpleNamespace(
    get_group_options=lambda group, *_: ["adam", "adamw", "sgd"] if group == "optimizer" else []
)  # fmt: skip


def space(*arguments, **params):
    return parse(params, arguments, LOADER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("int(interval(0,1))", IntDistribution(0, 1)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("range(1,9,2)", IntDistribution(1, 7, step=2)),
        ("range(5,1,-2)", IntDistribution(3, 5, step=2)),
        ("range(0.1,0.35,0.1)", FloatDistribution(0.1, 0.3, step=0.1)),
        ("0.1,0.01,0.1", CategoricalDistribution(["0.1", "0.01"])),
        ("choice('a b',1,true)", CategoricalDistribution(["a\\ b", "1", "True"])),
        ("[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
    ],
)
def test_distributions(text, expected):
    assert space(f"x={text}").distributions == {"x": expected}


def test_command_line_overrides_the_file():
    file = {"x": "interval(0,1)", "y": "1,2", "z": 3}
    found = space("x=5", "y=interval(0.5,2)", "~callback", **file)
    assert found.distributions == {"y": FloatDistribution(0.5, 2)}
    assert found.fixed == ["x=5", "z=3", "~callback"]


def test_overrides_are_exact_and_labels_are_short():
    found = space("x=interval(0.0,1)", "optimizer=sgd,adam")
    point = {"optimizer": "sgd", "x": 0.12345678901234566}
    assert found.overrides(point) == ["x=0.12345678901234566", "optimizer=sgd"]
    assert found.labels(point) == ["x=0.1235", "optimizer=sgd"]


def test_grid_has_all_points():
    points = space("x=range(1,6,2)", "y=a,b", "z=range(0.1,0.35,0.1)").grid()
    assert len(points) == 18
    assert {point["x"] for point in points} == {1, 3, 5}
    assert {point["z"] for point in points} == {0.1, 0.2, 0.3}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("x=1", "the study has nothing to search; expected at least one override with several values"),
        ("x=interval(1,0)", r"x=interval\(1,0\): .*low.*high.*; expected values that Optuna can sample"),
        ("x=tag(log,interval(0.0,1))", r"x=tag\(log,interval\(0.0,1\)\): .*; expected values that Optuna can sample"),
        ("x=tag(lg,interval(0.0,1))", r"lg is not a valid tag; expected tag\(log, interval\(...\)\)"),
        ("x=tag(log,choice(1,2))", "log is not a valid tag; expected choices without a tag"),
        ("x=range(0)", r"x=range\(0\): no values; expected at least one"),
        ("optimizer=sgd,adma", "optimizer=adma: no such choice; did you mean adam"),
    ],
)
def test_mistakes(argument, message):
    with pytest.raises(UserError, match=message):
        space(argument)


def test_grid_refuses_intervals():
    with pytest.raises(
        UserError, match=r"sampler=grid: x is not a finite set of values; expected x=range\(0.0,1.0,STEP\)"
    ):
        space("x=interval(0.0,1)", "y=1,2").grid()
