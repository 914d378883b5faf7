"""Parameter groups hold each parameter once, with the options that were asked for."""

import pytest
from torch import nn

from blitz.errors import UserError
from blitz.optimizer.groups import by_name, no_decay

NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))


def ids(parameters):
    return {id(parameter) for parameter in parameters}


def test_biases_and_norms_do_not_decay():
    decayed, others = no_decay(NET)
    assert ids(decayed["params"]) == ids([NET[0].weight, NET[2].weight])
    assert ids(others["params"]) == ids([NET[0].bias, NET[1].weight, NET[1].bias, NET[2].bias])
    assert others["weight_decay"] == 0
    assert "weight_decay" not in decayed, "it keeps that of the optimizer"


def test_first_pattern_counts_and_the_rest_is_the_last_group():
    first, second, rest = by_name(NET, {"0.weight": {"lr": 0.1}, "0.*": {"lr": 0.2}})
    assert ids(first["params"]) == ids([NET[0].weight])
    assert ids(second["params"]) == ids([NET[0].bias])
    assert (first["lr"], second["lr"]) == (0.1, 0.2)
    assert ids(rest["params"]) == ids([*NET[1].parameters(), *NET[2].parameters()])


def test_no_empty_group():
    assert len(by_name(NET, {"*": {}})) == 1
    with pytest.raises(UserError, match=r"groups\.fc\*: no parameter has such a name; expected one of 0\.weight, 0"):
        by_name(NET, {"fc*": {"lr": 1}})
