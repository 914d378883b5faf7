"""The argument that a library refused is named, whatever the library says."""

from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException

from blitz.errors import UserError
from blitz.training import arguments

SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.5}


def test_argument_of_an_object():
    config = {"model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2, "device": "nowhere"}}
    with pytest.raises(UserError, match=r"^model\.device=nowhere: Expected one of cpu, "):
        arguments.build(config, "model")


def test_argument_of_an_object_within_another():
    inner = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 2, "kernel_size": 1, "groups": 7}
    config = {"callback": {"a": {"_target_": "torch.nn.Flatten"}, "b": {"_target_": f"{__name__}.Box", "inner": inner}}}
    with pytest.raises(UserError, match=r"^callback\.b\.inner\.groups=7: in_channels must be divisible by groups"):
        arguments.build(config, "callback", "b")


def test_arguments_that_none_can_be_left_out_of():
    config = {"model": {"_target_": "torch.nn.Linear", "in_features": 2**62, "out_features": 2}}
    with pytest.raises(UserError, match=r"^model: torch\.nn\.Linear cannot use in_features=\d+, out_features=2 \("):
        arguments.build(config, "model")


def test_unexpected_arguments():
    config = {"model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, "first": 1, "second": 2}}
    with pytest.raises(UserError, match=r"^model\.first=1: .* unexpected keyword argument 'first'"):
        arguments.build(config, "model")


class Box:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


def test_further_objects_are_passed_on():
    conv = arguments.build({"a": {"_target_": f"{__name__}.Box"}}, "a", inner=[1])
    assert conv.inner == [1]


def test_errors_of_the_project_itself_are_not_explained():
    """An error in the user's own code needs its type and its line."""
    config = {"model": {"_target_": "blitz.model.net.Net", "in_channels": 1, "num_classes": 10, "image_size": "a"}}
    with pytest.raises(InstantiationException):
        arguments.build(config, "model")


@pytest.mark.parametrize(
    ("optimizer", "schedule", "problem"),
    [
        ({"momentum": -1}, {}, "optimizer.momentum=-1: Invalid momentum value: -1"),
        ({"lr": None}, {}, "optimizer.lr=null: "),
        ({"nesterov": True, "momentum": 0}, {}, "optimizer.nesterov=true: Nesterov momentum requires a momentum"),
        ({}, {"T_max": 5, "eta_min": "a"}, "schedule.eta_min=a: "),
        ({}, {"T_max": 0}, "schedule: torch.optim.lr_scheduler.CosineAnnealingLR cannot use T_max=0 ("),
    ],
)
def test_argument_of_an_optimizer_or_schedule(optimizer, schedule, problem):
    """Both are factories, so the task calls them later than Hydra. The error does not name the group."""
    optimizer = SGD | optimizer
    schedule = schedule and {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "_partial_": True,
        **schedule,
    }
    task = {"_target_": f"{__name__}.Box", "optimizer": optimizer, "schedule": schedule}
    config = {"optimizer": optimizer, "schedule": schedule, "task": task, "trainer": {}}

    def attempt(config: dict[str, Any]) -> None:
        task = {key: arguments.build(config, "task", key) for key in ("optimizer", "schedule") if config["task"][key]}
        built = task["optimizer"]([torch.nn.Parameter(torch.zeros(2))])
        if "schedule" in task:
            scheduler = task["schedule"](built)
            built.step()
            scheduler.step()

    with pytest.raises(UserError) as error, arguments.named(config, attempt):
        attempt(config)
    assert str(error.value).startswith(problem)
