"""Optional methods of a task or a data module. Any LightningModule works without them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from blitz.runs.report import Report


class ReportingTask(Protocol):
    """Task with its own report. For any other task, the logged metrics are shown."""

    def report(self, stage: str) -> Report:
        """Return the report of the last evaluation of ``stage``: ``train``, ``val`` or ``test``."""


class NamingTask(Protocol):
    """Task with metrics that the first batch of a stage may not have, such as those of an absent class."""

    def metric_names(self, stage: str) -> Sequence[str]:
        """Return the names of the metrics of an epoch of ``stage``."""


@runtime_checkable
class PictureTask(Protocol):
    """Task on images, which the dashboards show."""

    def batch_pixels(self, batch: Any) -> Tensor | None:
        """Return float32 ``(n, channels, h, w)`` in [0, 1] on the CPU, as the network sees them, or None."""

    def batch_captions(self, batch: Any) -> Sequence[str]:
        """Return a caption for each image of a training batch."""


@runtime_checkable
class ClassifierTask(Protocol):
    """Task that assigns each sample to one of ``classes``."""

    classes: Sequence[str]
    confusion: Mapping[str, Tensor]  # of the last evaluation of each stage: int, rows are true and columns predicted

    def batch_predictions(self, batch: Any, outputs: Any) -> tuple[Tensor, Tensor]:
        """Return the labels, int64 ``(n,)``, and the class probabilities ``(n, classes)``, on the CPU.

        Args:
            outputs: what the validation or test step returned for the batch.
        """


@runtime_checkable
class EmbeddingTask(Protocol):
    """Task with a layer whose inputs ``(n, features)`` represent the samples."""

    @property
    def head(self) -> nn.Module | None:
        """The layer. None if there is none."""


@runtime_checkable
class DescribedData(Protocol):
    """Data module with lines for the start of a run, and checksums that a resumed run compares."""

    batch_size: int  # of all devices together

    def describe(self, device: torch.device) -> Mapping[str, str]:
        """Return lines for the terminal, by label."""

    def checksums(self) -> Mapping[str, str]:
        """Return a checksum for each split, as ``kind:digest``."""


def reports(task: object) -> TypeGuard[ReportingTask]:
    """Return whether a task is a ``ReportingTask``. Another module may have a method of that name."""
    return _takes_stage(getattr(task, "report", None))


def names_metrics(task: object) -> TypeGuard[NamingTask]:
    """Return whether a task is a ``NamingTask``."""
    return _takes_stage(getattr(task, "metric_names", None))


def _takes_stage(method: object) -> bool:
    return callable(method) and list(inspect.signature(method).parameters) == ["stage"]
