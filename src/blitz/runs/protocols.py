"""Optional methods of a task or a data module. Any LightningModule works without them."""

import inspect
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from blitz.runs.exportable import Exportable
from blitz.runs.report import Report


class ReportingTask(Protocol):
    """Task with its own report. For any other task, the logged metrics are shown."""

    def report(self, stage: str) -> Report:
        """Return the report of the last evaluation of ``stage``: ``train``, ``val`` or ``test``."""


class NamingTask(Protocol):
    """Task that names its metrics in advance: a single batch may lack some, such as those of an absent class."""

    def metric_names(self, stage: str) -> Sequence[str]:
        """Return the names of the metrics of an epoch of ``stage``."""


class PredictingTask(Protocol):
    """Task that names its predictions. For any other task, the numbers that ``predict_step`` returns are written."""

    def prediction_records(self, batch: Any, outputs: Any) -> Sequence[Mapping[str, Any]]:
        """Return numbers, texts, and numbers by class, for each sample.

        Args:
            batch: inputs and targets. The targets are None if the inputs are files.
            outputs: the result of ``predict_step`` for this batch.
        """

    def prediction_report(self, batch: Any, outputs: Any) -> Report:
        """Return lines and pictures of these predictions, which are the first ones."""


@runtime_checkable
class ExportableTask(Protocol):
    """Task that can be exported to ONNX and ``torch.export``."""

    def exportable(self) -> Exportable:
        """Return the module to export."""


@runtime_checkable
class FileTransform(Protocol):
    """Transform of a task that reads files. Without one, predictions are only possible for a split of the data."""

    @property
    def extensions(self) -> Collection[str]:
        """Endings of the files that it may be able to read, in lower case, with the dot."""

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Return a file as a tensor of a fixed shape. Raise a UserError that names the file if it cannot be read."""

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the network's inputs for a batch of these tensors."""


@runtime_checkable
class OrderedData(Protocol):
    """Data module whose splits can be read in a fixed order, without augmentation."""

    def split_dataloader(self, name: str) -> Iterable[Any]:
        """Return the batches of ``train``, ``val`` or ``test``. Raise a UserError if there is no such split."""


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
    return _takes(getattr(task, "report", None), "stage")


def names_metrics(task: object) -> TypeGuard[NamingTask]:
    """Return whether a task is a ``NamingTask``."""
    return _takes(getattr(task, "metric_names", None), "stage")


def describes_predictions(task: object) -> TypeGuard[PredictingTask]:
    """Return whether a task is a ``PredictingTask``."""
    return all(
        _takes(getattr(task, name, None), "batch", "outputs") for name in ("prediction_records", "prediction_report")
    )


def _takes(method: object, *parameters: str) -> bool:
    return callable(method) and list(inspect.signature(method).parameters) == list(parameters)
