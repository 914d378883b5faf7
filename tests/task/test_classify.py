"""The figures, against a count by hand."""

import json
from itertools import pairwise

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from blitz.task.classify import Classify

CLASSES = ["a", "b", "absent", "d"]


class Fixed(nn.Module):
    """Answers with the logits that it is given as images."""

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
def test_figures_equal_a_count_by_hand(trainer, stage):
    task = Classify(Fixed(), classes=CLASSES)
    (trainer.validate if stage == "val" else trainer.test)(task, loader(), verbose=False)
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    right = logits.flatten(1).argmax(1) == labels
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert figures.pop(f"{stage}/acc") == pytest.approx(right.sum().item() / 17)
    loss = nn.functional.cross_entropy(logits.flatten(1), labels).item()
    assert figures.pop(f"{stage}/loss") == pytest.approx(loss, rel=1e-6)
    by_hand = {f"{stage}/acc/{CLASSES[c]}": right[labels == c].float().mean().item() for c in (0, 1, 3)}
    assert figures == pytest.approx(by_hand), "an absent class has no figure"
    predicted = logits.flatten(1).argmax(1)
    by_hand = [[int(((labels == t) & (predicted == p)).sum()) for p in range(4)] for t in range(4)]
    assert task.confusion[stage].tolist() == by_hand


def test_training_figures_are_those_of_the_steps(trainer):
    task = Classify(Fixed(), lambda parameters: torch.optim.SGD(parameters, 0.0), classes=CLASSES)
    trainer.fit(task, loader())
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    figures = trainer.callback_metrics
    right = (logits.flatten(1).argmax(1) == labels).double()
    assert float(figures["train/acc"]) == pytest.approx(right.mean().item())
    assert float(figures["train/loss"]) == pytest.approx(nn.functional.cross_entropy(logits.flatten(1), labels).item())
    assert float(figures["train/acc_step"]) == pytest.approx(right[6:].mean().item()), "of the last two steps"


def test_a_step_does_not_wait_for_the_device(trainer, monkeypatch):
    """Between two looks nothing asks a tensor for its value."""
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
    """The step is the optimizer's, not the batch's number."""
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


def test_metrics_names_what_is_logged(trainer):
    task = Classify(Fixed(), classes=["a", "b", "c", "d"])
    trainer.test(task, loader([(torch.randn(4, 4, 1, 1), torch.arange(4))]), verbose=False)
    assert set(task.metrics("test")) == set(trainer.callback_metrics)
    assert json.dumps(task.metrics("train")) == '["train/loss", "train/acc"]'
