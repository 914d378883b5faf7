"""Results of a run after its last step: the checkpoint that it keeps, and that checkpoint's metrics."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer

from blitz.errors import UserError
from blitz.runs.checkpoint import best_checkpoint, existing, read_checkpoint
from blitz.runs.folder import Run


def kept_checkpoint(trainer: Trainer, metric: str | None, run: Run) -> Path | None:
    """Return the best checkpoint by ``metric``, otherwise the last one. Return None if the run saves no checkpoints.

    Raises:
        UserError: the best checkpoint is missing.
    """
    best = best_checkpoint([callback.state_dict() for callback in trainer.checkpoint_callbacks], metric)
    return existing(Path(best)) if best else run.last_checkpoint


def kept_metrics(
    trainer: Trainer, metric: str | None, task: LightningModule, data: LightningDataModule, kept: Path | None
) -> dict[str, Any]:
    """Return the metrics of the kept checkpoint, without those of training, which describe an epoch.

    If ``metric`` is not among them, the checkpoint is validated now: the training has ended before any validation.
    """
    metrics: dict[str, Any] = dict(trainer.callback_metrics)
    if kept is not None:
        recorded = read_checkpoint(kept).get("metrics", {})  # absent in checkpoints until 2026-11
        metrics = {name: value for name, value in recorded.items() if not name.startswith("train/") or name == metric}
    if metric is not None and metric not in metrics:
        trainer.validate(task, data, ckpt_path=kept, verbose=False)
        metrics |= trainer.callback_metrics
    return metrics


def check_finite(metrics: Mapping[str, Any], task: LightningModule, source: Path | None) -> None:
    """Refuse the result of a test whose metrics are not finite.

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
