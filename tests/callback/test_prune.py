"""Pruning of trials, on a module that logs a metric chosen by the test."""

import optuna
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from blitz.callback.prune import Prune
from blitz.errors import PrunedError, UserError
from blitz.runs import trial as trials


class Constant(BoringModel):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def validation_step(self, batch, batch_idx):
        self.log("score", torch.tensor(self.value))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return a study whose eight first trials scored 0.5 in each of four epochs. This process runs the next one."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=trials.open_storage(url), study_name="s", direction="maximize")
    values = dict.fromkeys(range(1, 5), 0.5)
    study.add_trials([optuna.create_trial(value=0.5, intermediate_values=values) for _ in range(8)])
    monkeypatch.setenv(trials.STORAGE, url)
    monkeypatch.setenv(trials.STUDY, "s")
    monkeypatch.setenv(trials.NUMBER, str(study.ask().number))
    return study


def fit(tmp_path, score, callback, epochs=4, checkpoint=None):
    trainer = Trainer(
        max_epochs=epochs, limit_train_batches=1, limit_val_batches=1, callbacks=[callback], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Constant(score), ckpt_path=checkpoint, weights_only=False)
    return trainer


def test_better_trial_is_not_pruned(study, tmp_path):
    fit(tmp_path, 0.7, Prune("score"))
    assert study.trials[-1].intermediate_values == pytest.approx(dict.fromkeys(range(1, 5), 0.7))


@pytest.mark.parametrize("pruner", ["median", optuna.pruners.PercentilePruner(10)])
def test_worse_trial_is_pruned(study, tmp_path, pruner):
    with pytest.raises(PrunedError, match=r"^score 0\.2 in epoch 1$"):
        fit(tmp_path, 0.2, Prune("score", pruner))
    assert study.trials[-1].intermediate_values == pytest.approx({1: 0.2})


def test_hyperband(study, tmp_path):
    """It compares the trials of a bracket, after 1 or 3 of 4 epochs."""
    study.pruner = optuna.pruners.HyperbandPruner(max_resource=4)
    for _ in range(6):
        trial = study.ask()
        for step in range(1, 5):
            trial.report(0.5, step)
            trial.should_prune()
        study.tell(trial, 0.5)
    with pytest.raises(PrunedError, match=r"^score 0\.2 in epoch [13]$"):
        fit(tmp_path, 0.2, Prune("score", "hyperband"))


def test_resumed_trial_continues_its_count(study, tmp_path):
    fit(tmp_path, 0.7, Prune("score"), epochs=2).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 0.8, Prune("score"), epochs=3, checkpoint=tmp_path / "saved.ckpt")
    assert study.trials[-1].intermediate_values == pytest.approx({1: 0.7, 2: 0.7, 3: 0.8})


def test_run_outside_a_study_is_not_pruned(tmp_path):
    fit(tmp_path, 0.0, Prune("score"), epochs=1)


def test_mistakes(study, tmp_path):
    with pytest.raises(UserError, match=r"callback.prune.pruner=mean: no such pruner; expected median or hyperband"):
        Prune("score", "mean")
    with pytest.raises(UserError, match=r"callback.prune.monitor=val/acc: not logged; expected one of .*score"):
        fit(tmp_path, 0.5, Prune("val/acc"))
