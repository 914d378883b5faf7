"""The results of a run are those of the checkpoint that it keeps."""

import json

import pytest
import torch

from blitz.errors import UserError
from blitz.runs.folder import Run
from blitz.task.classify import Classify
from blitz.training.results import checkpoint_to_test
from tests.conftest import QUICK, error_of


class Forgetful(Classify):
    """Forget the last epochs."""

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        if self.current_epoch >= 2:
            with torch.no_grad():
                self.net.fc3.weight.zero_()


def test_metrics_of_validation_and_test_belong_to_the_best_checkpoint(train, command, tmp_path, capsys):
    run = train("trainer.max_epochs=4", "seed=1", f"task._target_={__name__}.Forgetful")
    metrics = Run(run).metrics
    best, last = (torch.load(run / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "resume.ckpt"))
    assert best["epoch"] < last["epoch"]
    assert metrics["val/acc"] == best["metrics"]["val/acc"] > last["metrics"]["val/acc"]
    out = capsys.readouterr().out
    assert f"best.ckpt, val/acc {metrics['val/acc']:.4g}" in out
    command("blitz-eval", f"run={run}", "device=cpu", f"hydra.run.dir={tmp_path / 'eval'}")
    assert Run(tmp_path / "eval").metrics["test/acc"] == metrics["test/acc"]


def test_training_that_ends_before_a_validation_is_validated_at_the_end(train):
    run = Run(train("trainer.max_steps=3", "seed=1"))
    assert not (run.checkpoints / "best.ckpt").exists()
    assert 0 <= run.metrics["val/acc"] <= 1
    assert 0 <= run.metrics["test/acc"] <= 1


def test_sweeper_gets_the_metric_of_the_best_checkpoint(train, monkeypatch):
    values = []
    import blitz.train

    train_once = blitz.train.train
    monkeypatch.setattr(blitz.train, "train", lambda cfg: values.append(train_once(cfg)))
    run = train(*QUICK, "seed=1")
    assert values == [Run(run).metrics["val/acc"]]


def test_accuracies_are_exact_ratios_of_counts(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = [line.split(",") for line in (finished / "per_class.csv").read_text().splitlines()[1:]]
    correct, images = (sum(int(row[column]) for row in rows) for column in (2, 1))
    assert metrics["test/acc"] == correct / images
    for name, count, right, _ in rows:
        assert metrics[f"test/acc/{name}"] == int(right) / int(count)
    assert metrics["val/acc"] in {correct / 143 for correct in range(144)}


def test_another_filename_is_followed(train, command, tmp_path):
    run = train(*QUICK, "callback.checkpoint.filename='epoch-{epoch}'")
    assert Run(run).metrics["val/acc"] >= 0
    (file,) = (run / "checkpoints").glob("epoch-*.ckpt")
    command("blitz-eval", f"run={run}", "device=cpu", f"hydra.run.dir={tmp_path / 'a'}")
    assert f"checkpoint={file}" in (tmp_path / "a" / "overrides.yaml").read_text()
    file.unlink()
    assert f"{file}: the best checkpoint is missing" in error_of(command, "blitz-eval", f"run={run}")


def test_missing_best_checkpoint_is_refused(tmp_path):
    class Callback:
        def state_dict(self):
            return {"monitor": "val/acc", "best_model_path": str(tmp_path / "checkpoints" / "best.ckpt")}

    class Trainer:
        checkpoint_callbacks = (Callback(),)

    with pytest.raises(UserError, match=r"best\.ckpt: the best checkpoint is missing"):
        checkpoint_to_test(Trainer(), "val/acc", Run(tmp_path))


@pytest.mark.parametrize("name", ["filename=../../x", "dirpath=/tmp"])
def test_checkpoint_outside_of_the_run_directory_is_refused(name, train, tmp_path):
    message = error_of(train, *QUICK, f"callback.checkpoint.{name}")
    assert "outside of the run directory" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["weights", "none"])
def test_metrics_that_are_not_finite_are_refused_and_recorded_as_null(where, finished, command, tmp_path):
    path = tmp_path / "nan.ckpt"
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["net.fc3.bias"][2] = float("nan") if where == "weights" else 3e38
    if where == "none":
        content["state_dict"]["net.fc3.bias"][3] = -3e38
    torch.save(content, path)
    message = error_of(command, "blitz-eval", f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'eval'}")
    reason = "1 of its tensors are not finite, such as net.fc3.bias" if where == "weights" else "it overflows"
    assert message.startswith(f"blitz-eval: checkpoint={path}: test/loss is ")
    assert reason in message
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["test/loss"] is None
