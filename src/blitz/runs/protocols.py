"""Methods that a task or a data module may offer to the programs. Any LightningModule works without them."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from blitz.runs.report import Report


@runtime_checkable
class ReportingTask(Protocol):
    """Task that describes its results itself. Of any other, the metrics that it logs are shown."""

    def report(self, stage: str) -> Report:
        """Return the report of the last evaluation of ``stage``: ``train``, ``val`` or ``test``."""


@runtime_checkable
class NamingTask(Protocol):
    """Task that logs metrics which the first batch of a stage may lack, such as those of a class."""

    def metric_names(self, stage: str) -> Sequence[str]:
        """Return the names of the metrics of an epoch of ``stage``."""


@runtime_checkable
class DescribedData(Protocol):
    """Data module that the start of a run describes, and whose content a resumed run compares."""

    batch_size: int  # of all devices together

    def describe(self, device: torch.device) -> Mapping[str, str]:
        """Return lines for the terminal, by their label."""

    def checksums(self) -> Mapping[str, str]:
        """Return a checksum for each split, as ``kind:digest``."""
