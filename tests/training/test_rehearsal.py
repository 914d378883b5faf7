"""One step is rehearsed before a run writes anything."""

import pytest
import torch

from blitz.errors import UserError
from blitz.process import random_state
from blitz.training import build
from blitz.training.rehearsal import Rehearsal, rehearse
from tests.conftest import QUICK, error_of
from tests.training.test_build import config


def parts(*overrides):
    settings = config("device=cpu", *overrides)
    data = build.data(settings)
    data.setup("fit")
    data.setup("test")
    return settings, build.trainer(settings), build.task(settings), data


def test_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, trainer, task, data = parts("trainer.max_epochs=3")
    weights = {name: value.clone() for name, value in task.state_dict().items()}
    state = random_state.get()
    rehearse(settings, trainer, task, data)
    assert all(torch.equal(weights[name], value) for name, value in task.state_dict().items())
    assert torch.equal(random_state.get()["torch"], state["torch"])
    assert random_state.get()["python"] == state["python"]
    assert trainer.global_step == 0
    assert not list(tmp_path.iterdir())


def test_a_run_is_the_same_without_its_rehearsal(train, monkeypatch):
    first = train(*QUICK, "seed=1", into="a")
    monkeypatch.setattr("blitz.training.rehearsal.rehearse", lambda *_: Rehearsal({}))
    second = train(*QUICK, "seed=1", into="b")
    assert (first / "metrics.json").read_bytes() == (second / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["optimizer.betas=[1.5,0.9]"], "optimizer.betas=[1.5, 0.9]: Invalid beta parameter at index 0: 1.5"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: Invalid weight_decay value: -1"),
        (["optimizer=sgd", "optimizer.momentum=-1"], "optimizer.momentum=-1: Invalid momentum value: -1"),
        (["schedule.pct_start=2"], "schedule.pct_start=2: Expected float between 0 and 1 pct_start, but got 2"),
        (["schedule.total_steps=-4"], "schedule.total_steps=-4: Expected positive integer total_steps, but got -4"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1: OneCycleLR needs the total number of steps; expected a"),
        (["trainer.val_check_interval=100"], "trainer.val_check_interval=100: `val_check_interval` (100) must be less"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: "),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0: "),
        (["trainer.limit_train_batches=0.0001"], "trainer.limit_train_batches=0.0001: You requested to check 0.0001"),
        (["task.label_smoothing=3"], "task.label_smoothing=3: label_smoothing must be between 0.0 and 1.0. Got: 3"),
    ],
)
def test_refused_argument_is_named(overrides, problem):
    with pytest.raises(UserError) as error:
        rehearse(*parts("trainer.limit_train_batches=5", *overrides))
    assert str(error.value).startswith(problem)


class Failing(torch.nn.Module):
    """Fail in training only, like most bugs in a new model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.LazyLinear(10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("a bug")
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("override", [f"model={{_target_:{__name__}.Failing}}", "optimizer.betas=[2,2]"])
def test_failed_rehearsal_leaves_no_file(override, train, tmp_path):
    key, _, node = override.partition("={")
    overrides = [f"{key}._target_={__name__}.Failing", "~model.in_channels", "~model.num_classes", "~model.image_size"]
    message = error_of(train, *QUICK, *(overrides if node else [override]))
    assert "a bug" in message or "Invalid beta" in message
    assert not list(tmp_path.iterdir())
