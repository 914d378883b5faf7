"""Dotted keys, and the text that stands for the number of optimizer steps."""

import pytest
from omegaconf import OmegaConf

from blitz.config.keys import TOTAL_STEPS, leaves
from tests.test_configs import compose


def test_leaves():
    node = {"a": {"b": 1, "c": [2, {"d": None}]}, "e": "x", "f": {}, "g": []}
    assert dict(leaves(node)) == {"a.b": 1, "a.c.0": 2, "a.c.1.d": None, "e": "x"}
    assert dict(leaves(node["a"], "a")) == {"a.b": 1, "a.c.0": 2, "a.c.1.d": None}
    assert list(leaves(3, "seed")) == [("seed", 3)]


@pytest.mark.parametrize(("schedule", "has_fixed_length"), [("onecycle", True), ("cosine", True), ("constant", False)])
def test_schedules_of_fixed_length_say_total_steps(schedule, has_fixed_length):
    """A run with such a schedule refuses to train longer."""
    values = [value for _, value in leaves(OmegaConf.to_container(compose(f"schedule={schedule}").schedule))]
    assert (TOTAL_STEPS in values) == has_fixed_length
