"""Base class of tasks with one loss of predictions and targets, and the same step in every stage."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from blitz.errors import DivergenceError
from blitz.runs.report import Report
from blitz.task import optimization
from blitz.task.optimization import OptimizerFactory, ParameterGroups, Schedule
from blitz.task.stage_metrics import StageMetrics

Loss = Callable[[Tensor, Tensor], Tensor]


class StageOptions(TypedDict, total=False):
    """Arguments that every ``StageTask`` passes on."""

    optimizer: OptimizerFactory | None
    schedule: Schedule | None
    metrics: Mapping[str, Metric] | None
    parameter_groups: ParameterGroups | None
    freeze: Sequence[str]


class StageTask(LightningModule):
    """A network, a loss of its predictions, and metrics by stage. A subclass defines ``predictions_and_targets``.

    Metrics of an epoch are ``{train,val,test}/loss``, the mean over the samples, and ``{train,val,test}/<name>`` for
    each additional metric. The mean is exact even if batches differ in size between steps or processes. Checkpoints
    hold the metric states of an unfinished epoch, so a resumed run logs the same values as an uninterrupted one.
    ``train/loss_step`` is the loss of a single batch. With several processes it is the loss on rank 0.

    Args:
        loss: called with predictions and targets; returns their mean loss.
        optimizer: called with the parameters; returns the optimizer.
        schedule: the scheduler, as ``blitz.task.optimization.configure`` takes it.
        metrics: torchmetrics objects by name, updated with predictions and targets.
        parameter_groups: called with this task; returns the parameter groups of the optimizer. None: one group.
        freeze: names of layers that are not trained, or patterns of parameter names, such as ``net.encoder*``.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        metrics: Mapping[str, Metric] | None = None,
        parameter_groups: ParameterGroups | None = None,
        freeze: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.net = net
        self.loss: Loss = loss
        self.optimizer: OptimizerFactory | None = optimizer
        self.schedule: Schedule | None = schedule or None
        self.parameter_groups: ParameterGroups | None = parameter_groups
        optimization.freeze(self, freeze)
        self.losses = StageMetrics({"loss": MeanMetric(nan_strategy="disable")})
        self.metrics = StageMetrics(metrics or {})

    def predictions_and_targets(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the network's predictions for a batch and their targets, both ``(n, ...)``."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._step("train", batch)[0]
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the predictions, for callbacks and subclasses."""
        return self._step("val", batch)[1]

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the predictions, for callbacks and subclasses."""
        return self._step("test", batch)[1]

    def _step(self, stage: str, batch: Any) -> tuple[Tensor, Tensor]:
        predictions, targets = self.predictions_and_targets(batch)
        loss, n = self.loss(predictions, targets), len(targets)
        # In float32, because sums in bf16 would be wrong in the third digit.
        self.losses.update(stage, loss.detach().float().expand(n), loss.new_ones(n).float())
        self.metrics.update(stage, predictions.detach(), targets)
        return loss, predictions

    def on_train_epoch_start(self) -> None:
        self.losses.reset("train")
        self.metrics.reset("train")

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def _log_epoch(self, stage: str) -> None:
        """Log the metrics of an epoch.

        Raises:
            DivergenceError: the loss is not finite. The run stops before it writes a checkpoint with these weights.
        """
        values = self.losses.compute(stage) | self.metrics.compute(stage)
        loss = float(values[f"{stage}/loss"])
        if stage != "test" and not math.isfinite(loss):
            raise DivergenceError(f"{stage}/loss is {loss:g} after step {self.global_step}: try a lower optimizer.lr")
        self.log_dict(values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage_losses"] = self.losses.states("train")
        checkpoint["stage_metrics"] = self.metrics.states("train")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses.load_states("train", checkpoint.get("stage_losses", []))
        self.metrics.load_states("train", checkpoint.get("stage_metrics", []))

    def report(self, stage: str) -> Report:
        """Return a line for the terminal with each metric of the last evaluation of ``stage``."""
        names = [*self.losses.names(stage), *self.metrics.names(stage)]
        found = {name: value for name, value in self.trainer.callback_metrics.items() if name in names}
        return Report(summary={name.replace("/", " "): f"{float(value):.4f}" for name, value in found.items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimization.configure(self, self.optimizer, self.schedule, self.parameter_groups)
