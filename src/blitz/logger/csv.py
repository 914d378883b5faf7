"""Lightning's CSV logger, for a run that goes on: Lightning's begins with deleting what was logged."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from blitz.logger import to_disk


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

    def position(self, step: int) -> dict[str, Any]:
        self.save()
        if self._rows:
            to_disk(self._path)
        return {"rows": self._rows}

    def truncate_to(self, position: dict[str, Any]) -> None:
        """To be called before anything is logged; an empty mark is the start."""
        rows: list[list[str]] = []
        if self._path.exists() and position.get("rows"):
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[: 1 + position["rows"]]
        if not rows:
            self._path.unlink(missing_ok=True)
            return
        self._header, self._rows = rows[0], len(rows) - 1
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        temporary.replace(self._path)

    @property
    def _path(self) -> Path:
        return Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes what is there."""
