"""Results of a run after its last step: the checkpoint to test, its metrics, and its report."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, SupportsFloat

from lightning import LightningDataModule, LightningModule, Trainer
from rich.markup import escape

from blitz.errors import UserError
from blitz.runs.checkpoint import best_checkpoint, read_checkpoint, require_file
from blitz.runs.folder import Run
from blitz.runs.protocols import reports
from blitz.runs.report import Report
from blitz.training.stages import has_stage


def checkpoint_to_test(trainer: Trainer, metric: str | None, run: Run) -> Path | None:
    """Return the best checkpoint by ``metric``, or the last one if none is monitored. Return None if there is none.

    Raises:
        UserError: the best checkpoint is missing.
    """
    best = best_checkpoint([callback.state_dict() for callback in trainer.checkpoint_callbacks], metric)
    return require_file(Path(best)) if best else run.last_checkpoint


def metrics_of_checkpoint(
    trainer: Trainer, metric: str | None, task: LightningModule, data: LightningDataModule | None, kept: Path | None
) -> dict[str, Any]:
    """Return the metrics of the kept checkpoint. Training metrics other than ``metric`` are left out.

    If ``metric`` is missing because training ended before any validation, validate the checkpoint now.
    """
    metrics: dict[str, Any] = dict(trainer.callback_metrics)
    if kept is not None:
        recorded = read_checkpoint(kept).get("metrics", {})  # absent in checkpoints of earlier versions
        metrics = {name: value for name, value in recorded.items() if not name.startswith("train") or name == metric}
    if metric is not None and metric not in metrics and has_stage("val", trainer, task, data):
        trainer.validate(task, data, ckpt_path=kept, verbose=False)
        metrics |= trainer.callback_metrics
    return metrics


def evaluate(
    trainer: Trainer, task: LightningModule, data: LightningDataModule | None, kept: Path | None
) -> Literal["test", "val", "train"]:
    """Test the kept checkpoint. If there is no test, validate it. If there is no validation either, do nothing.

    Returns:
        The stage whose metrics are the results of the run.
    """
    if has_stage("test", trainer, task, data):
        trainer.test(task, data, ckpt_path=kept, verbose=False)
        return "test"
    if has_stage("val", trainer, task, data):
        trainer.validate(task, data, ckpt_path=kept, verbose=False)
        if any(trainer.num_val_batches):
            return "val"
    return "train"


def report(task: LightningModule, stage: str, metrics: Mapping[str, SupportsFloat]) -> Report:
    """Return the report of the task, or a table of the metrics if it has none."""
    if reports(task):
        return task.report(stage)
    rows = [(escape(name), f"{float(value):.6g}") for name, value in sorted(metrics.items())]
    return Report(display=[("metric", "value"), *rows] if rows else ())


def check_finite(metrics: Mapping[str, Any], task: LightningModule, source: Path | None) -> None:
    """Refuse metrics that are not finite.

    Args:
        source: the checkpoint that was tested.

    Raises:
        UserError: with the metric, and the name of a weight that is not finite.
    """
    wrong = {name: float(value) for name, value in metrics.items() if not math.isfinite(float(value))}
    if wrong:
        name, value = next(iter(wrong.items()))
        weights = [key for key, weight in task.state_dict().items() if not weight.isfinite().all()]
        reason = f"{len(weights)} of its tensors are not finite, such as {weights[0]}" if weights else "it overflows"
        raise UserError(f"{source or 'the trained model'}: {name} is {value:g}, because {reason}; expected a number")
