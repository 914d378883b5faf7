"""Optimizers and schedules follow the config, and count steps or epochs as it says."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from blitz.errors import UserError
from blitz.optimizer.groups import by_name
from blitz.runs.folder import Run
from blitz.task import optimization


class Task(nn.Module):
    def __init__(self, total=100):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        self.trainer = SimpleNamespace(estimated_stepping_batches=total, max_epochs=-1)


def configure(schedule, total=100, **options):
    made = optimization.configure(Task(total), partial(SGD, lr=1.0), schedule, **options)
    return made["lr_scheduler"], made["optimizer"]


@pytest.mark.parametrize(
    ("schedule", "interval"),
    [
        (partial(StepLR, step_size=3), "epoch"),
        (partial(CosineAnnealingLR, T_max="total_steps"), "step"),
        ({"scheduler": partial(StepLR, step_size=3), "interval": "step", "frequency": 2}, "step"),
        (partial(SequentialLR, schedulers=[partial(LinearLR, total_iters="0.1 * total_steps"),
                                           partial(ConstantLR)], milestones=["0.1 * total_steps"]), "step"),
    ],
)  # fmt: skip
def test_interval(schedule, interval):
    settings, _ = configure(schedule)
    assert settings["interval"] == interval
    assert settings.get("frequency") == (2 if isinstance(schedule, dict) else None)


def test_warm_up_and_cosine():
    warm_up = partial(LinearLR, start_factor=0.1, total_iters="0.1 * total_steps")
    cosine = partial(CosineAnnealingLR, T_max="0.9 * total_steps")
    settings, optimizer = configure(
        partial(SequentialLR, schedulers=[warm_up, cosine], milestones=["0.1 * total_steps"])
    )
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        settings["scheduler"].step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0) == max(rates)
    assert rates[55] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def constant(given):
    return ConstantLR(given)


def test_optimizer_is_found_by_its_name_or_comes_first():
    chain, _ = configure(partial(ChainedScheduler, schedulers=[partial(ConstantLR)]))
    assert isinstance(chain["scheduler"], ChainedScheduler)
    assert isinstance(configure(partial(constant))[0]["scheduler"], ConstantLR)


def test_training_without_an_end():
    with pytest.raises(UserError, match=r"^trainer\.max_epochs=-1: OneCycleLR needs the total number of steps"):
        configure(partial(OneCycleLR, max_lr=1.0, total_steps="total_steps"), math.inf)
    configure(partial(StepLR, step_size=1), math.inf)


def test_one_maximum_for_several_rates_is_refused():
    groups = partial(by_name, groups={"net.0.*": {"lr": 0.5}})
    with pytest.raises(UserError, match=r"^schedule\.max_lr=1\.0: it replaces .* \[0\.5, 1\.0\]"):
        configure(partial(OneCycleLR, max_lr=1.0, total_steps="total_steps"), parameter_groups=groups)
    _, optimizer = configure(partial(OneCycleLR, max_lr=[0.5, 1.0], total_steps="total_steps"), parameter_groups=groups)
    assert [group["max_lr"] for group in optimizer.param_groups] == [0.5, 1.0]


def test_no_optimizer():
    with pytest.raises(UserError, match=r"^task\.optimizer=null: "):
        optimization.configure(Task(), None)


def test_freeze():
    task = Task()
    optimization.freeze(task, ["net.0.*"])
    assert [parameter.requires_grad for parameter in task.parameters()] == [False, False, True, True]
    with pytest.raises(UserError, match=r"^task\.freeze=fc: no parameter has such a name; expected one of net\.0"):
        optimization.freeze(task, ["fc"])


def test_frozen_parameters_and_groups_in_a_run(train):
    groups = "+task.parameter_groups.groups={net.fc3: {lr: 0.5}}"
    run = train(
        "task/parameter_groups=by_name", groups, "task.freeze=[net.conv*]", "optimizer=sgd", "optimizer.momentum=0",
        "optimizer.lr=0.0", "schedule=constant", "trainer.max_steps=2", "seed=1",
    )  # fmt: skip
    start = train("optimizer.lr=1e-30", "trainer.max_steps=1", "seed=1", "optimizer.weight_decay=0", into="start")
    weights, before = (
        torch.load(path / "checkpoints" / "resume.ckpt", weights_only=True)["state_dict"] for path in (run, start)
    )
    changed = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert changed == {"net.fc3.weight", "net.fc3.bias"}


@pytest.mark.parametrize("schedule", ["plateau", "step", "warmup_cosine"])
def test_shipped_schedules(schedule, train):
    metrics = Run(train(f"schedule={schedule}", "trainer.max_epochs=2", "trainer.limit_train_batches=3")).metrics
    assert 0 <= metrics["test/acc"] <= 1
