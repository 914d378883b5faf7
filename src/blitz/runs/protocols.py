"""Optional methods of a task or a data module. Any LightningModule works without them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeGuard, runtime_checkable

import torch

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
