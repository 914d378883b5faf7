"""Log metrics to ``metrics.csv``. Unlike Lightning's CSVLogger, it keeps the rows of the run that it resumes."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from blitz.logger import sync_to_disk
from blitz.runs.atomic import write_atomically


class CSVLogger(Logger):
    """Write ``metrics.csv``, a row per call of ``log_metrics``, and ``hparams.yaml`` to ``save_dir/name/version``.

    The file has a column for each metric, sorted by name. It is rewritten if a row has a new metric.
    """

    def __init__(self, save_dir: str | Path, name: str = "", version: str = "") -> None:
        super().__init__()
        self._name, self._version = name, version
        self._directory = Path(save_dir, name, version)
        self._columns: list[str] = []
        self._num_rows = 0
        self._unwritten: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    @property
    def save_dir(self) -> str:
        return str(self._directory)

    @property
    def path(self) -> Path:
        return self._directory / "metrics.csv"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self._directory.mkdir(parents=True, exist_ok=True)
        save_hparams_to_yaml(self._directory / "hparams.yaml", params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._unwritten.append({**row, "step": self._num_rows if step is None else step})
        self._num_rows += 1

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were logged since the last call. Lightning calls this after logging training metrics."""
        rows, self._unwritten = self._unwritten, []
        if set().union(*rows) - set(self._columns):
            self._rewrite([*self._read(), *rows])
        elif rows:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)

    def position(self, step: int) -> dict[str, Any]:
        self.save()
        if self._num_rows:
            sync_to_disk(self.path)
        return {"rows": self._num_rows}

    def truncate_to(self, position: dict[str, Any]) -> None:
        rows = self._read()[: position.get("rows", 0)]
        self._num_rows = len(rows)
        if rows:
            self._rewrite(rows)
        else:
            self.path.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        """Return the rows of the file, without empty cells, so that a column without values is not written again."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._columns = sorted(set().union(*rows))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text.getvalue().encode())
