"""Regression: metrics equal to a computation by hand, for predictions and targets of either shape."""

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, R2Score

from blitz.errors import UserError
from blitz.task.regress import Regress


def made(n=11):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator), torch.randn(n, generator=generator)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("column", [False, True], ids=["(n,)", "(n, 1)"])
def test_metrics_equal_a_computation_by_hand(column, trainer):
    net = nn.Linear(3, 1) if column else nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    metrics = {"rmse": MeanSquaredError(squared=False), "r2": R2Score()}
    task = Regress(net, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.0), features=3, metrics=metrics)
    inputs, targets = made()
    loader = DataLoader(TensorDataset(inputs, targets[:, None] if column else targets), 4)
    trainer.fit(task, loader, loader)
    found = dict(trainer.callback_metrics)
    trainer.test(task, loader, verbose=False)
    found |= trainer.callback_metrics
    errors = task(inputs).detach() - targets
    mse = errors.square().mean().item()
    r2 = 1 - mse / targets.var(correction=0).item()
    for stage in ("train", "val", "test"):
        values = [float(found[f"{stage}/{name}"]) for name in ("loss", "rmse", "r2")]
        assert values == pytest.approx([mse, mse**0.5, r2], rel=1e-5), stage
    lines = task.report("test").summary
    assert lines == {"test loss": f"{mse:.4f}", "test rmse": f"{mse**0.5:.4f}", "test r2": f"{r2:.4f}"}
    assert torch.equal(torch.cat(trainer.predict(task, loader)), task(inputs))


def test_another_loss(trainer):
    task, (inputs, targets) = Regress(nn.Linear(3, 1), loss=nn.L1Loss()), made()
    trainer.test(task, DataLoader(TensorDataset(inputs, targets), 4), verbose=False)
    expected = (task(inputs) - targets).abs().mean().item()
    assert float(trainer.callback_metrics["test/loss"]) == pytest.approx(expected)


@pytest.mark.parametrize("features", [3, None])
def test_a_network_with_several_outputs_is_refused(features, trainer):
    """Before the training if the number of features is known, and otherwise at the first batch."""
    with pytest.raises(UserError, match=r"Linear returns \((2|4), 2\) for (2|4) samples; expected"):
        trainer.test(Regress(nn.Linear(3, 2), features=features), DataLoader(TensorDataset(*made()), 4), verbose=False)
