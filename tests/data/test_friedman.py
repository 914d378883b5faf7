"""Friedman's function: values by hand, fixed splits, and batches for several processes."""

import math
from types import SimpleNamespace

import pytest
import torch

from blitz.data.friedman import Friedman, friedman1
from blitz.errors import UserError


def test_function_equals_values_by_hand():
    inputs = torch.tensor([[0.5, 1.0, 0.5, 0.0, 0.0, 0.7], [0.5, 0.5, 0.0, 0.5, 1.0, 0.1]])
    assert friedman1(inputs).tolist() == pytest.approx([10, 10 * math.sin(math.pi / 4) + 5 + 5 + 5])


def test_noise_is_all_that_the_function_does_not_explain():
    data = Friedman(num_train=50_000, noise=0.5)
    inputs, targets = data.draw("train")
    assert inputs.shape == (50_000, 10)
    assert (inputs.min() >= 0) & (inputs.max() < 1)
    rest = targets - friedman1(inputs)
    assert (rest.mean().item(), rest.std().item()) == pytest.approx((0, 0.5), abs=0.01)


def test_splits_depend_on_the_seed_of_the_data_alone():
    torch.manual_seed(1)
    first, other = Friedman(), Friedman(data_seed=1)
    torch.manual_seed(2)
    again = Friedman(num_train=10)
    assert torch.equal(first.draw("test")[1], again.draw("test")[1])
    assert not torch.equal(first.draw("test")[1], other.draw("test")[1])
    assert not torch.equal(first.draw("test")[0][:500], first.draw("val")[0])


def test_a_batch_is_divided_among_the_processes():
    data = Friedman(batch_size=100)
    data.setup("fit")
    assert [len(targets) for _, targets in data.train_dataloader()] == [100] * 20
    data.trainer = SimpleNamespace(world_size=4)
    assert {len(targets) for _, targets in data.train_dataloader()} == {25}
    data.trainer = SimpleNamespace(world_size=3)
    with pytest.raises(UserError, match=r"data.batch_size=100: not divisible by 3 processes"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("key", "value"), [("num_test", 0), ("features", 4), ("noise", -1), ("noise", math.inf), ("num_train", True)]
)
def test_arguments_out_of_range(key, value):
    with pytest.raises(UserError, match=rf"data\.{key}={value}: not a valid number"):
        Friedman(**{key: value})
