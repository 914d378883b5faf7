"""The output shape of a network; tests/task/test_classify.py has the errors of one that does not fit the images."""

import pytest
import torch
from torch import nn

from blitz.errors import UserError
from blitz.task.net_check import output_shape


def test_modules_return_to_their_modes_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Linear(3, 1))
    net[0].eval()
    assert output_shape(net, torch.zeros(2, 3)) == (2, 1)
    with pytest.raises(UserError, match=r"data: Sequential cannot take inputs of the shape \(2, 4\) \(.+\)"):
        output_shape(net, torch.zeros(2, 4))
    assert [module.training for module in net] == [False, True]
