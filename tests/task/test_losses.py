"""Losses equal their formulas."""

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningDataModule

from blitz.errors import UserError
from blitz.task.classify import Classify
from blitz.task.losses import BalancedCrossEntropy, FocalLoss

LOGITS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 0])


def test_focal_loss():
    p = LOGITS.softmax(1)[torch.arange(7), LABELS]
    assert FocalLoss(1.5)(LOGITS, LABELS).item() == pytest.approx(float((-((1 - p) ** 1.5) * p.log()).mean()))
    assert FocalLoss(0)(LOGITS, LABELS).item() == pytest.approx(F.cross_entropy(LOGITS, LABELS).item())


def test_classes_count_the_same():
    loss = BalancedCrossEntropy(3)
    assert loss(LOGITS, LABELS).item() == pytest.approx(F.cross_entropy(LOGITS, LABELS).item())
    loss.set_class_counts(torch.bincount(LABELS))
    by_class = [F.cross_entropy(LOGITS[label == LABELS], LABELS[label == LABELS]) for label in range(3)]
    assert loss(LOGITS, LABELS).item() == pytest.approx(float(torch.stack(by_class).mean()))


def test_weights_come_from_the_training_data_and_belong_to_the_checkpoint(train):
    run = train("task/loss=balanced", "trainer.max_steps=1", "seed=1")
    weight = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)["state_dict"]["loss.weight"]
    assert weight.shape == (10,)
    assert 0.9 < weight.min() < 1 < weight.max() < 1.1, "the digits are almost balanced"


def test_data_without_counts_is_refused():
    class Data(LightningDataModule):
        pass

    task = Classify(torch.nn.Linear(1, 3), classes="abc", loss=BalancedCrossEntropy(3))

    class Trainer:
        datamodule = Data()

    task._trainer = Trainer()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^task\.loss=BalancedCrossEntropy: .* Data has no class_counts\(\)"):
        task.on_fit_start()


def test_label_smoothing_beside_a_loss_is_refused():
    with pytest.raises(UserError, match=r"^task\.label_smoothing=0\.1: task\.loss does not use it; expected 0"):
        Classify(torch.nn.Linear(1, 3), classes="abc", loss=FocalLoss(), label_smoothing=0.1)
