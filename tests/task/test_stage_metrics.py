"""Metrics are copied for each stage, logged by name and class, and restored within an epoch."""

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import AUROC, F1Score, MetricCollection

from blitz.runs.folder import Run
from blitz.task.stage_metrics import StageMetrics

LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
LOGITS = F.one_hot(torch.tensor([0, 1, 2, 1, 1, 2]), 3).float()


def metrics(**more):
    by_class = F1Score("multiclass", num_classes=3, average="none")
    return StageMetrics({"f1": F1Score("multiclass", num_classes=3, average="macro"), "class": by_class, **more}, "abc")


def test_values_by_name_and_class():
    found = metrics()
    found.update("val", LOGITS, LABELS)
    values = found.compute("val")
    assert {name: round(float(value), 4) for name, value in values.items()} == {
        "val/f1": 0.6556, "val/class/a": 0.6667, "val/class/b": 0.8, "val/class/c": 0.5,
    }  # fmt: skip
    assert values.keys() <= set(found.names("val"))


def test_stages_are_apart_and_reset():
    found = metrics()
    found.update("val", LOGITS, LABELS)
    found.update("test", LOGITS, LOGITS.argmax(1))
    assert found.compute("test")["test/f1"] == 1
    assert found.compute("val")["val/f1"] < 1
    found.update("val", LOGITS, LOGITS.argmax(1))
    assert found.compute("val")["val/f1"] == 1, "the first update was reset"


def test_an_empty_part_is_left_out():
    found = metrics()
    found.update("val", LOGITS[:0], LABELS[:0])
    found.update("val", LOGITS, LABELS)
    assert round(float(found.compute("val")["val/f1"]), 4) == 0.6556


def test_collections():
    collection = MetricCollection({"x": F1Score("multiclass", num_classes=3, average="macro")})
    found = StageMetrics({"several": collection})  # type: ignore[dict-item]
    found.update("test", LOGITS, LABELS)
    assert found.compute("test").keys() == {"test/several/x"}


def test_state_is_restored():
    """One metric has sums as its state, the other one a list of all predictions."""
    exact = AUROC("multiclass", num_classes=3)
    whole, first, second = (metrics(auroc=exact) for _ in range(3))
    for part in (slice(0, 3), slice(3, 6)):
        whole.update("train", LOGITS[part], LABELS[part])
    first.update("train", LOGITS[:3], LABELS[:3])
    second.update("train", LOGITS[:2], LABELS[:2])
    second.load_states("train", first.states("train"))
    second.update("train", LOGITS[3:], LABELS[3:])
    assert second.compute("train") == whole.compute("train")


@pytest.mark.parametrize("stop", [3, 7])
def test_a_run_with_metrics_resumes_exactly(stop, train, command, tmp_path):
    overrides = ("task/metrics=[f1,ranking]", "trainer.max_epochs=1", "trainer.limit_train_batches=9", "seed=1")
    whole = train(*overrides, into="whole")
    with pytest.raises(SystemExit):
        train(*overrides, f"+callback.die={{_target_: tests.test_foreign.Die, by: SIGTERM, batch: {stop}}}")
    command("blitz-train", f"resume={tmp_path / 'run'}")
    assert Run(tmp_path / "run").metrics == Run(whole).metrics
    assert {"train/f1", "val/f1_class/3", "test/auroc", "test/top5"} <= Run(whole).metrics.keys()
