"""Classification: metrics equal to a count by hand, logged without waiting for the device, and kept in checkpoints."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader

from blitz.errors import UserError
from blitz.task.classify import Classify

CLASSES = ["a", "b", "absent", "d"]


class Fixed(nn.Module):
    """Returns its images, which are logits."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images.flatten(1) * self.scale


def batches(sizes=(5, 1, 7, 4)):
    """Imbalanced, with no image of class 2, in batches of different sizes."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        labels = torch.tensor([0, 0, 0, 1, 3])[torch.randint(0, 5, (size,), generator=generator)]
        yield torch.randn(size, 4, 1, 1, generator=generator), labels


def loader(data=None):
    return DataLoader(list(batches()) if data is None else data, batch_size=None)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False, log_every_n_steps=2,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_equal_a_count_by_hand(trainer, stage):
    task = Classify(Fixed(), classes=CLASSES)
    (trainer.validate if stage == "val" else trainer.test)(task, loader(), verbose=False)
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    right = logits.flatten(1).argmax(1) == labels
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert metrics.pop(f"{stage}/acc") == pytest.approx(right.sum().item() / 17)
    loss = nn.functional.cross_entropy(logits.flatten(1), labels).item()
    assert metrics.pop(f"{stage}/loss") == pytest.approx(loss, rel=1e-6)
    by_hand = {f"{stage}/acc/{CLASSES[c]}": right[labels == c].float().mean().item() for c in (0, 1, 3)}
    assert metrics == pytest.approx(by_hand), "an absent class has no accuracy"
    predicted = logits.flatten(1).argmax(1)
    by_hand = [[int(((labels == t) & (predicted == p)).sum()) for p in range(4)] for t in range(4)]
    assert task.confusion[stage].tolist() == by_hand


def test_training_metrics_equal_a_count_by_hand(trainer):
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.0), classes=CLASSES)
    trainer.fit(task, loader())
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    metrics = trainer.callback_metrics
    right = (logits.flatten(1).argmax(1) == labels).double()
    assert float(metrics["train/acc"]) == pytest.approx(right.mean().item())
    assert float(metrics["train/loss"]) == pytest.approx(nn.functional.cross_entropy(logits.flatten(1), labels).item())
    assert float(metrics["train/acc_step"]) == pytest.approx(right[6:].mean().item()), "of the last two steps"


def test_a_step_does_not_wait_for_the_device(trainer, monkeypatch):
    """Between two flushes, no code reads the value of a tensor."""
    asked = []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _o=original, _n=name, **k: asked.append(_n) or _o(self, *a, **k)
        )
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.1), classes=CLASSES)
    during = []
    monkeypatch.setattr(task, "on_train_batch_start", lambda *a: during.append(len(asked)), raising=False)
    trainer.fit(task, loader(list(batches((4,) * 20))))
    steps = [b - a for a, b in pairwise(during)]
    assert len(steps) == 19
    assert not any(steps[0::2]), f"{steps}: the steps that do not log"
    assert any(steps[1::2]), "the test sees the steps that do"


def test_a_loss_that_is_not_finite_stops_the_run(trainer):
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.25), classes=CLASSES)
    data = list(batches((4,) * 8))
    data[4][0].fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 5, with lr 0.25"):
        trainer.fit(task, loader(data))


def test_a_loss_that_is_not_finite_under_accumulation(trainer):
    """The message has the number of the optimizer step, not that of the batch."""
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.25), classes=CLASSES)
    data = list(batches((4,) * 8))
    data[5][0].fill_(float("inf"))
    trainer.accumulate_grad_batches = 2
    with pytest.raises(FloatingPointError, match=r"at step 3, with lr 0.25"):
        trainer.fit(task, loader(data))


def test_accumulation_counts_every_batch(tmp_path):
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False, log_every_n_steps=1, accumulate_grad_batches=2,
    )  # fmt: skip
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.0), classes=CLASSES)
    trainer.fit(task, loader())
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    right = (logits.flatten(1).argmax(1) == labels).double()
    assert float(trainer.callback_metrics["train/acc"]) == pytest.approx(right.mean().item())
    assert trainer.global_step == 2


def test_predict_gives_probabilities(trainer):
    task = Classify(Fixed(), classes=CLASSES)
    predictions = torch.cat(trainer.predict(task, loader()))
    assert predictions.shape == (17, 4)
    assert torch.allclose(predictions.sum(1), torch.ones(17))


def test_metric_names_are_those_that_are_logged(trainer):
    task = Classify(Fixed(), classes=["a", "b", "c", "d"])
    trainer.test(task, loader([(torch.randn(4, 4, 1, 1), torch.arange(4))]), verbose=False)
    assert set(task.metric_names("test")) == set(trainer.callback_metrics)
    assert task.metric_names("train") == ["train/loss", "train/acc"]


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_steps_are_logged_when_the_optimizer_has_stepped(accumulate, tmp_path):
    """An epoch has 8 batches; its last batch always ends an accumulation."""
    logger = Rows()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=logger, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False, log_every_n_steps=1, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.0), classes=CLASSES)
    data = list(batches((4,) * 8))
    trainer.fit(task, loader(data))
    windows = [data[first : first + accumulate] for first in range(0, 8, accumulate)]
    losses = [
        sum(nn.functional.cross_entropy(logits.flatten(1), labels).item() for logits, labels in window) / len(window)
        for window in windows
    ]
    logged = [(step, row["train/loss_step"]) for step, row in logger.rows if "train/loss_step" in row]
    assert [step for step, _ in logged] == list(range(len(windows)))
    assert [loss for _, loss in logged] == pytest.approx(losses)


class Rows(DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))


@pytest.mark.parametrize("old", [False, True], ids=["current", "until 2026-11"])
def test_training_metrics_are_kept_in_checkpoints(old, trainer, tmp_path):
    """Also those of steps that were not flushed when the checkpoint was saved."""
    saved, resumed = ({}, Classify(Fixed(), classes=CLASSES))
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.0), classes=CLASSES)
    task.on_train_batch_start = lambda batch, batch_idx: batch_idx == 3 and task.on_save_checkpoint(saved)
    trainer.fit(task, loader(list(batches((4,) * 4))))
    state = saved["training_metrics"]
    if old:
        saved = {"running": {"epoch": state["epoch"], "lately": state["window"]}}
    resumed.on_load_checkpoint(saved)
    assert resumed.training_metrics.state_dict() == state
    assert (state["epoch"][2], state["window"][2]) == (12, 4), "images of three steps, and of those after the second"


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Conv2d(1, 4, 3), "data.channels=3: Conv2d takes images with 1 channels; expected 1"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 4)),
            r"data.image_size=8: Sequential cannot take 3x8x8 images \(.+\)",
        ),
        (nn.Flatten(), r"Flatten returns \(2, 192\) for 2 images; expected \(2, 4\)"),
    ],
)
def test_a_network_that_does_not_fit_the_data(net, message):
    with pytest.raises(UserError, match=message):
        Classify(net, classes=CLASSES, transform=SimpleNamespace(channels=3, image_size=8))


def test_the_check_of_a_network_changes_no_state():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten())
    net[0].eval()
    generator = torch.get_rng_state()
    Classify(net, classes=CLASSES, transform=SimpleNamespace(channels=1, image_size=2))
    assert [module.training for module in net] == [False, True, True]
    assert net[0].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), generator)


def test_schedule_is_told_the_number_of_steps(trainer):
    schedule = partial(torch.optim.lr_scheduler.LinearLR, total_iters="total_steps")
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.1), schedule, CLASSES)
    trainer.accumulate_grad_batches = 2
    trainer.fit(task, loader(list(batches((4,) * 8))))
    assert trainer.lr_scheduler_configs[0].scheduler.total_iters == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1)
