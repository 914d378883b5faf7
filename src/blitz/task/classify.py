"""Image classification: one step for every stage, and accuracy by class."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.markup import escape
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from blitz.config.keys import TOTAL_STEPS
from blitz.errors import DivergenceError, UserError
from blitz.runs.report import Report


class Classify(LightningModule):
    """Cross-entropy on one label of ``classes`` per image.

    Logged: ``{train,val,test}/loss`` and ``/acc`` (micro: of all images, whatever their class) each epoch,
    ``train/loss_step`` and ``train/acc_step`` every ``log_every_n_steps`` (means since the last), and
    ``{val,test}/acc/<class>``, which an absent class does not have. ``confusion[stage]``, int ``(classes, classes)``,
    counts the images of the last evaluation: a row for each true class, a column for each predicted one.

    Args:
        net: images ``(n, channels, size, size)`` to logits ``(n, len(classes))``.
        optimizer: makes one from the parameters.
        schedule: makes one from the optimizer, stepped after every optimizer step. An argument that it gives as
            ``"total_steps"`` is replaced by the number of steps that the trainer will take.
        transform: pictures to the batch that ``net`` takes; for whoever loads a checkpoint, not used in training.

    Raises:
        UserError: the network cannot take the transform's images, or does not return one logit per class.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: partial[Any] | None = None,
        classes: Sequence[str] = (),
        label_smoothing: float = 0.0,
        transform: Any = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer: Callable[..., torch.optim.Optimizer] | None = optimizer
        self.schedule: partial[Any] | None = schedule or None
        self.classes = list(classes)
        self.label_smoothing = label_smoothing
        self.transform = transform
        measures = MetricCollection(
            {
                "acc": MulticlassAccuracy(len(self.classes), average="micro", validate_args=False),
                "confusion": MulticlassConfusionMatrix(len(self.classes), validate_args=False),
                "loss": MeanMetric(nan_strategy="disable"),
            },
            compute_groups=False,
        )
        self.measures: Mapping[str, MetricCollection] = nn.ModuleDict(  # type: ignore[assignment]
            {stage: measures.clone() for stage in ("val", "test")}
        )
        self.running = _Running()
        self.confusion: dict[str, Tensor] = {}
        if transform is not None:
            self.example_input_array = torch.zeros(2, transform.channels, transform.image_size, transform.image_size)
            self._check_net()

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name around each hook, 44 times a step, and a module's own way takes 2 µs each time.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _check_net(self) -> None:
        channels, size = self.transform.channels, self.transform.image_size
        name, training = type(self.net).__name__, self.net.training
        try:
            with torch.no_grad():
                shape = tuple(self.net.eval()(self.example_input_array).shape)
        except (RuntimeError, ValueError) as error:
            first = next((layer for layer in self.net.modules() if isinstance(layer, nn.Conv2d)), None)
            if first is not None and first.in_channels != channels:
                takes = f"{name} takes images of {first.in_channels} channels"
                raise UserError(f"{takes}, but the data has data.channels={channels}") from error
            reason = " ".join(str(error).split())
            raise UserError(
                f"{name} cannot take the data's {channels}x{size}x{size} images (data.image_size={size}): {reason}"
            ) from error
        self.net.train(training)
        if shape != (2, len(self.classes)):
            raise UserError(
                f"{name} returns {shape} for two images, but {len(self.classes)} classes need (2, {len(self.classes)})"
            )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Class probabilities ``(n, len(classes))``."""
        return self.net(batch[0]).softmax(1)

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if stage == "train":
            self._record(loss, logits, labels)
        else:
            # Not weight=len(labels): torchmetrics 1.9 ignores weights where nan_strategy is "disable".
            self.measures[stage].update(preds=logits, target=labels, value=loss.expand(len(labels)))
        return loss

    def _record(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.running.update(loss, logits, labels, self.global_step + 1, lr)

    def metric_names(self, stage: str) -> list[str]:
        """The names of what a stage logs each epoch, if every class is in its data."""
        by_class = [] if stage == "train" else [f"{stage}/acc/{name}" for name in self.classes]
        return [f"{stage}/loss", f"{stage}/acc", *by_class]

    def on_train_epoch_start(self) -> None:
        self.running = _Running()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        labels = batch[1]
        if not len(labels):  # of an epoch's last batch a process may have no image: it has taken no step of its own
            self._record(labels.new_zeros(()).float(), labels.new_zeros(0, len(self.classes)), labels)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.global_step % every == 0 and not self.trainer.fit_loop._should_accumulate():
            self._look()
            loss, acc = self.running.lately()
            self.log_dict({"train/loss_step": loss, "train/acc_step": acc}, on_step=True, on_epoch=False)

    def on_validation_epoch_start(self) -> None:
        if self.trainer.training or self.trainer.validating:
            self._look()  # a loss that is not finite stops the run before a checkpoint is written

    def on_train_epoch_end(self) -> None:
        self._look()
        loss, acc = self.running.epoch()
        self.log_dict({"train/loss": loss, "train/acc": acc})

    def _look(self) -> None:
        self.running.look(partial(self.trainer.strategy.reduce, reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._look()
        checkpoint["running"] = self.running.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "running" in checkpoint:
            self.running.load_state_dict(checkpoint["running"])

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        values = self.measures[stage].compute()
        self.measures[stage].reset()
        self.confusion[stage] = values["confusion"].cpu()
        counts = zip(
            self.classes, self.confusion[stage].sum(1).tolist(), self.confusion[stage].diag().tolist(), strict=True
        )
        by_class = {f"{stage}/acc/{name}": correct / count for name, count, correct in counts if count}
        self.log_dict({f"{stage}/loss": values["loss"], f"{stage}/acc": values["acc"], **by_class})

    def report(self, stage: str) -> Report:
        """Return the tables of the last evaluation: images, correct ones and accuracy by class, and the confusion."""
        confusion = self.confusion[stage]
        counts = list(zip(self.classes, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True))
        accuracy = {name: correct / count if count else None for name, count, correct in counts}
        total, hits = int(confusion.sum()), int(confusion.trace())
        return Report(
            metrics={f"{stage}/acc/{name}": None for name, value in accuracy.items() if value is None},
            tables={
                "per_class": [
                    ("class", "count", "correct", "accuracy"),
                    *((name, count, correct, "n/a" if accuracy[name] is None else accuracy[name])
                      for name, count, correct in counts),
                ],
                "confusion": [("true", *self.classes), *((name, *row) for name, row in
                                                         zip(self.classes, confusion.tolist(), strict=True))],
            },
            display=[
                ("class", "images", "correct", "accuracy", ""),
                *((escape(name), str(count), str(correct), as_percent(accuracy[name]), _mark(accuracy[name], accuracy))
                  for name, count, correct in counts),
            ],
            summary={f"{stage} accuracy": f"{as_percent(hits / total)}  ({hits:,} of {total:,})"},
        )  # fmt: skip

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.optimizer is not None
        optimizer = self.optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        given = {key: int(total) for key, value in self.schedule.keywords.items() if value == TOTAL_STEPS}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer, **given), "interval": "step"},
        }


def as_percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.2f} %"


def _mark(value: float | None, accuracy: Mapping[str, float | None]) -> str:
    """Return a mark, in rich's markup, for the best and the worst class."""
    known = [other for other in accuracy.values() if other is not None]
    if value is None or max(known) == min(known):
        return ""
    return {max(known): "[green]best[/]", min(known): "[red]worst[/]"}.get(value, "")


class _Running:
    """Losses and hits of the training steps, kept on the device until somebody looks: a step never waits for them.

    Sums are taken step after step, so that who looks how often does not change a bit of them.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Tensor, Tensor, Tensor, int, float]] = []
        self._epoch = [0.0, 0.0, 0.0]  # losses, hits and images
        self._lately = [0.0, 0.0, 0.0]

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, step: int, lr: float) -> None:
        self._steps.append((loss.detach(), logits.detach().argmax(1), labels, step, lr))

    def look(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Add up what the steps since the last look have left, those of all processes.

        Args:
            reduce: sums a tensor over the processes.

        Raises:
            DivergenceError: a loss was not finite; in every process alike.
        """
        if not self._steps:
            return
        losses, predicted, labels, steps, lrs = zip(*self._steps, strict=True)
        self._steps = []
        counts = [len(part) for part in labels]
        right = torch.split(torch.cat(predicted) == torch.cat(labels), counts)
        hits = torch.stack([part.sum() for part in right])
        images = torch.tensor(counts, dtype=torch.float32, device=losses[0].device)
        mine = torch.stack([torch.stack(losses).float() * images, hits.float(), images])
        for step, lr, figures in zip(steps, lrs, reduce(mine).T.tolist(), strict=True):
            if not math.isfinite(figures[0]):
                raise DivergenceError(
                    f"the loss is {figures[0]:g} at step {step}, with lr {lr:g}: try a lower optimizer.lr"
                )
            for sums in (self._epoch, self._lately):
                sums[:] = [total + figure for total, figure in zip(sums, figures, strict=True)]

    def lately(self) -> tuple[float, float]:
        """Mean loss and accuracy of the images looked at since this was last asked."""
        (loss, hits, images), self._lately = self._lately, [0.0, 0.0, 0.0]
        return loss / images, hits / images

    def epoch(self) -> tuple[float, float]:
        """Mean loss and accuracy of all images looked at."""
        loss, hits, images = self._epoch
        return loss / images, hits / images

    def state_dict(self) -> dict[str, list[float]]:
        """Of what was looked at; the same in all processes."""
        return {"epoch": self._epoch, "lately": self._lately}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._epoch, self._lately = list(state["epoch"]), list(state["lately"])
