"""Image classification: one step for all stages, and accuracy by class."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from blitz.errors import UserError
from blitz.runs.exportable import Exportable
from blitz.runs.report import Report
from blitz.task import image_model, optimization, per_class
from blitz.task.net_check import output_shape
from blitz.task.optimization import OptimizerFactory, ParameterGroups, Schedule
from blitz.task.pictures import Normalization, to_pixels, unnormalize
from blitz.task.predictions import Predictions
from blitz.task.stage_metrics import StageMetrics
from blitz.task.training_metrics import TrainingMetrics

Batch = tuple[Tensor, Tensor]
IN_LINE = 4  # images in the lines "GroundTruth" and "Predicted", as in the tutorial
DIGITS = 6  # of a probability, after the point


@runtime_checkable
class CountsClasses(Protocol):
    """Loss that needs the number of training images of each class, such as ``losses.BalancedCrossEntropy``."""

    def set_class_counts(self, counts: Tensor) -> None:
        """Set the number of training images of each class, int64 ``(classes,)``."""


@runtime_checkable
class KnowsClassCounts(Protocol):
    """Data module that counts its training images by class."""

    def class_counts(self) -> Tensor:
        """Return the number of training images of each class, int64 ``(classes,)``."""


class Classify(LightningModule):
    """Cross-entropy with one label of ``classes`` per image.

    Metrics of an epoch are ``{train,val,test}/loss`` and ``{train,val,test}/acc``, the micro accuracy, and
    ``{val,test}/acc/<class>`` for each class that has images. ``train/loss_step`` and ``train/acc_step`` are means of
    the last ``trainer.log_every_n_steps`` steps. ``confusion[stage]`` is the confusion matrix of the last evaluation,
    int ``(classes, classes)``, with a row for each true class and a column for each predicted one.

    Args:
        net: takes images ``(n, channels, size, size)`` and returns logits ``(n, len(classes))``.
        optimizer: called with the parameters; returns the optimizer.
        schedule: the scheduler, as ``blitz.task.optimization.configure`` takes it.
        parameter_groups: called with this task; returns the parameter groups of the optimizer. None: one group.
        freeze: names of layers that are not trained, or patterns of parameter names, such as ``net.conv*``.
        loss: called with logits ``(n, len(classes))`` and labels, int64 ``(n,)``; returns their mean loss. None:
            cross-entropy.
        metrics: additional metrics by name, such as an F1 score. Each stage has copies of them. ``stage/<name>`` is
            logged for each epoch, or ``stage/<name>/<class>`` if a metric returns one value per class.
        transform: from pictures to the batch that ``net`` takes. Training does not use it, except to check its image
            size against ``net``. Users of a checkpoint call it.

    Raises:
        UserError: the network cannot take images of the transform's size, or does not return one logit per class.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        classes: Sequence[str] = (),
        label_smoothing: float = 0.0,
        transform: Normalization | None = None,
        parameter_groups: ParameterGroups | None = None,
        freeze: Sequence[str] = (),
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer: OptimizerFactory | None = optimizer
        self.schedule: Schedule | None = schedule or None
        self.parameter_groups: ParameterGroups | None = parameter_groups
        optimization.freeze(self, freeze)
        self.classes = [str(name) for name in classes]
        if loss is not None and label_smoothing:
            raise UserError(f"task.label_smoothing={label_smoothing}: task.loss does not use it; expected 0")
        self.loss: Callable[[Tensor, Tensor], Tensor] = loss or partial(
            F.cross_entropy, label_smoothing=label_smoothing
        )
        self.metrics = StageMetrics(metrics or {}, self.classes)
        self.transform = transform
        self.training_metrics = TrainingMetrics()
        self.evaluation_metrics: Mapping[str, MetricCollection] = nn.ModuleDict(  # type: ignore[assignment]
            {stage: _evaluation_metrics(len(self.classes)) for stage in ("val", "test")}
        )
        self.confusion: dict[str, Tensor] = {}
        self._last_step = 0
        if transform is not None:
            self.example_input_array = torch.zeros(2, transform.channels, transform.image_size, transform.image_size)
            check_net(net, self.example_input_array, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, logits = self._loss_and_logits(batch)
        self._update_training_metrics(loss, logits, batch[1])
        self.metrics.update("train", logits.detach(), batch[1])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits, for callbacks."""
        return self._evaluation_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits, for callbacks."""
        return self._evaluation_step("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> Tensor:
        """Return class probabilities ``(n, len(classes))``."""
        return self.net(batch[0]).softmax(1)

    def predict(self, images: Any) -> Predictions:
        """Return the predicted class and the class probabilities of each image.

        Args:
            images: anything that the transform takes: PIL images, arrays, tensors, paths, or a list of them.

        Raises:
            UserError: an image cannot be read, or has another type or shape.
        """
        return Predictions(self.classes, image_model.predict(self, self.transform, images))

    def prediction_records(self, batch: tuple[Tensor, Tensor | None], outputs: Tensor) -> list[dict[str, Any]]:
        """Return the true class if it is known, the predicted class, its probability, and those of all classes."""
        truths = self._names(batch[1])
        records: list[dict[str, Any]] = [{"truth": name} for name in truths] if truths else [{} for _ in outputs]
        for record, found in zip(records, Predictions(self.classes, outputs.float()), strict=True):
            record["prediction"] = found.name
            record["confidence"] = round(found.confidence, DIGITS)
            record["probability"] = {name: round(value, DIGITS) for name, value in found.probabilities.items()}
        return records

    def prediction_report(self, batch: tuple[Tensor, Tensor | None], outputs: Tensor) -> Report:
        """Return the tutorial's lines if the true classes are known, and ``grid.png``, a picture of all images."""
        from blitz import plots  # imports matplotlib, which training does not need

        predictions, truths = Predictions(self.classes, outputs.float()), self._names(batch[1])
        summary = {}
        if truths:
            pairs = list(zip(truths, predictions.names, strict=True))[:IN_LINE]
            widths = [max(map(len, pair)) for pair in pairs]
            for label, names in zip(("GroundTruth:", "Predicted:"), zip(*pairs, strict=True), strict=True):
                padded = (f"{name:<{width}}" for name, width in zip(names, widths, strict=True))
                summary[label] = "  ".join(padded).rstrip()
        if not all(hasattr(self.transform, name) for name in ("mean", "std")):
            return Report(summary=summary)
        pixels = to_pixels(batch[0], cast("Normalization", self.transform))
        figure = plots.prediction_grid(pixels, predictions.names, predictions.confidences.tolist(), truths)
        return Report(summary=summary, files={"grid.png": plots.as_png(figure)})

    def _names(self, labels: Tensor | None) -> list[str] | None:
        return None if labels is None else [self.classes[label] for label in labels.tolist()]

    def exportable(self) -> Exportable:
        """Return the network with its normalization and a softmax: uint8 images in, ``probabilities`` out."""
        finish = partial(torch.softmax, dim=1)
        return image_model.exportable(self, self.transform, "probabilities", finish, classes=self.classes)

    def _loss_and_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = self.net(images)
        return self.loss(logits, labels), logits

    def _evaluation_step(self, stage: str, batch: Batch) -> Tensor:
        loss, logits = self._loss_and_logits(batch)
        # Not weight=len(labels): torchmetrics 1.9 ignores weights if nan_strategy is "disable".
        self.evaluation_metrics[stage].update(preds=logits, target=batch[1], value=loss.expand(len(batch[1])))
        self.metrics.update(stage, logits, batch[1])
        return logits

    def _update_training_metrics(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.training_metrics.update(loss, logits, labels, self.global_step + 1, lr)

    def on_fit_start(self) -> None:
        if isinstance(self.loss, CountsClasses):
            data = self.trainer.datamodule
            if not isinstance(data, KnowsClassCounts):
                raise UserError(
                    f"task.loss={type(self.loss).__name__}: it needs the number of images of each class, and "
                    f"{type(data).__name__} has no class_counts(); expected another loss"
                )
            self.loss.set_class_counts(data.class_counts())

    def on_train_start(self) -> None:
        self._last_step = self.global_step

    def on_train_epoch_start(self) -> None:
        self.training_metrics = TrainingMetrics()
        self.metrics.reset("train")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        labels = batch[1]
        if not len(labels):  # a rank without images in the epoch's last batch has taken no training step
            no_loss, no_logits = torch.zeros((), device=labels.device), labels.new_zeros(0, len(self.classes))
            self._update_training_metrics(no_loss, no_logits, labels)
        step, every = self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped, self._last_step = step != self._last_step, step  # False while gradients accumulate
        if stepped and every and step % every == 0:
            self._flush()
            loss, acc = self.training_metrics.compute("window")
            self.training_metrics.reset("window")
            self.log_dict({"train/loss_step": loss, "train/acc_step": acc}, on_step=True, on_epoch=False)

    def on_validation_epoch_start(self) -> None:
        self._flush()  # if a loss is not finite, the run stops before it writes a checkpoint

    def on_train_epoch_end(self) -> None:
        self._flush()
        loss, acc = self.training_metrics.compute("epoch")
        self.log_dict({"train/loss": loss, "train/acc": torch.tensor(acc, dtype=torch.float64)})
        self.log_dict(self.metrics.compute("train"))

    def _flush(self) -> None:
        self.training_metrics.flush(partial(self.trainer.strategy.reduce, reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._flush()
        checkpoint["training_metrics"] = self.training_metrics.state_dict()
        checkpoint["stage_metrics"] = self.metrics.states("train")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("training_metrics") or checkpoint.get("running")  # the name until 2026-11
        if state:
            self.training_metrics.load_state_dict(state)
        self.metrics.load_states("train", checkpoint.get("stage_metrics", []))

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        metrics = self.evaluation_metrics[stage].compute()
        self.evaluation_metrics[stage].reset()
        self.confusion[stage] = metrics["confusion"].cpu()
        results = per_class.class_results(self.classes, self.confusion[stage])
        accuracies = {f"{stage}/acc/{result.name}": result.accuracy for result in results}
        accuracies[f"{stage}/acc"] = per_class.accuracy(results)
        # float64 keeps every bit of the ratio of two counts. Lightning would convert Python's floats to float32.
        exact = {
            name: torch.tensor(value, dtype=torch.float64) for name, value in accuracies.items() if value is not None
        }
        self.log_dict({f"{stage}/loss": metrics["loss"], **exact, **self.metrics.compute(stage)})

    def metric_names(self, stage: str) -> list[str]:
        """Return the names of the metrics of an epoch of ``stage``, if its data has images of each class."""
        by_class = [] if stage == "train" else [f"{stage}/acc/{name}" for name in self.classes]
        return [f"{stage}/loss", f"{stage}/acc", *by_class, *self.metrics.names(stage)]

    def report(self, stage: str) -> Report:
        """Return the tables of the last evaluation of ``stage``."""
        if stage not in self.confusion:  # it was not evaluated
            return Report()
        return per_class.report(stage, self.classes, self.confusion[stage])

    def batch_pixels(self, batch: Batch) -> Tensor | None:
        """Return the images of a batch as pictures. None if there is no transform that normalized them."""
        return unnormalize(batch[0], self.transform) if isinstance(self.transform, Normalization) else None

    def batch_captions(self, batch: Batch) -> list[str]:
        """Return the name of the class of each image."""
        return [self.classes[label] for label in batch[1].tolist()]

    def batch_predictions(self, batch: Batch, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels, int64 ``(n,)``, and the class probabilities ``(n, len(classes))``, on the CPU."""
        return batch[1].cpu(), outputs.detach().float().softmax(1).cpu()

    @property
    def head(self) -> nn.Module | None:
        """The layer that returns the logits, and whose inputs are the embeddings of the images."""
        layers = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)]
        return layers[-1] if layers and layers[-1].out_features == len(self.classes) else None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimization.configure(self, self.optimizer, self.schedule, self.parameter_groups)


def _evaluation_metrics(num_classes: int) -> MetricCollection:
    return MetricCollection(
        {
            "confusion": MulticlassConfusionMatrix(num_classes, validate_args=False),
            "loss": MeanMetric(nan_strategy="disable"),
        },
        compute_groups=False,
    )


def check_net(net: nn.Module, images: Tensor, num_classes: int) -> None:
    """Pass ``images``, ``(n, channels, size, size)``, through ``net`` in evaluation mode.

    Raises:
        UserError: the network cannot take them, or does not return logits ``(n, num_classes)``.
    """
    name, n, shape = type(net).__name__, len(images), output_shape(net, images)
    if shape != (n, num_classes):
        raise UserError(
            f"{name} returns {shape} for {n} images; expected ({n}, {num_classes}), one logit for each of data.classes"
        )
