"""Lightning's CSV logger, for a run that goes on: Lightning's begins with deleting what was logged."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


class CSVLogger(loggers.CSVLogger):
    """``mark`` says how many rows there are, ``rewind`` drops those that came later."""

    _header: Sequence[str] = ()
    _rows = 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
            self._experiment.metrics_keys = list(self._header)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self._rows += 1

    def mark(self, step: int) -> dict[str, Any]:
        return {"rows": self._rows}

    def rewind(self, mark: dict[str, Any]) -> None:
        """To be called before anything is logged; an empty mark is the start."""
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        self._rows = mark.get("rows", 0)
        if not self._rows:
            path.unlink(missing_ok=True)
            return
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows[: self._rows]])
        temporary.replace(path)
        self._header = header


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes what is there."""
