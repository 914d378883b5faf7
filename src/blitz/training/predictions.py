"""Predictions of a task for batches of inputs, as a table."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from blitz.errors import UserError
from blitz.runs.protocols import describes_predictions
from blitz.runs.report import Report

Record = Mapping[str, Any]


class Table:
    """Records as a file of CSV or JSON. Records are stored as text, which takes less memory than dicts.

    In CSV, the values of a mapping have columns of their own: ``probability/cat``.
    """

    def __init__(self, kind: Literal["csv", "json"]) -> None:
        self.kind = kind
        self.number = 0
        self.text = io.StringIO(newline="")
        self._rows = csv.writer(self.text)

    def add(self, record: Record) -> None:
        if self.kind == "json":
            self.text.write(f"{',' if self.number else '['}\n{json.dumps(record, ensure_ascii=False)}")
        else:
            row = dict(_flat(record))
            self._rows.writerows([row, row.values()] if self.number == 0 else [row.values()])
        self.number += 1

    def content(self) -> bytes:
        return (self.text.getvalue() + ("\n]\n" if self.kind == "json" else "")).encode()


def _flat(record: Record) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", one) for part, one in value.items())
        else:
            yield name, value


class Collector(Callback):
    """Add the predictions of each batch to a table, and keep the first ones for the report.

    Args:
        names: the file of each sample, if the samples are files. None: the records have its index instead.
        first: number of samples to keep.
        advance: called with the number of samples of each batch.
    """

    def __init__(self, table: Table, names: Sequence[str] | None, first: int, advance: Callable[[int], None]) -> None:
        self.table = table
        self.names = names
        self.first = first
        self.advance = advance
        self.shown: list[Record] = []
        self._kept: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        outputs, batch = _on_cpu(outputs), _on_cpu(batch)
        _check_outputs(pl_module, outputs)
        if describes_predictions(pl_module):
            records = pl_module.prediction_records(batch, outputs)
            self._keep(batch, outputs)
        else:
            records = _numbers(outputs)
        for record in records:
            number = self.table.number
            full = ({"index": number} if self.names is None else {"file": self.names[number]}) | dict(record)
            self.table.add(full)
            if number < self.first:
                self.shown.append(full)
        self.advance(len(records))

    def _keep(self, batch: Any, outputs: Tensor) -> None:
        missing = self.first - sum(len(kept) for *_, kept in self._kept)
        if missing > 0:
            inputs, targets = batch
            self._kept.append((inputs[:missing], None if targets is None else targets[:missing], outputs[:missing]))

    def report(self, task: LightningModule) -> Report:
        """Return the task's report of the first samples."""
        if not describes_predictions(task) or not self._kept:
            return Report()
        inputs, targets, outputs = zip(*self._kept, strict=True)
        known = None if targets[0] is None else torch.cat(targets)
        return task.prediction_report((torch.cat(inputs), known), torch.cat(outputs))


def predict(
    trainer: Trainer,
    task: LightningModule,
    batches: Iterable[Any],
    table: Table,
    names: Sequence[str] | None,
    first: int,
    advance: Callable[[int], None],
) -> Collector:
    """Add the predictions for all batches to a table. The other arguments are those of ``Collector``."""
    collector = Collector(table, names, first, advance)
    trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    _use_forward(task)
    trainer.predict(task, batches, return_predictions=False)
    return collector


def check_one_process(trainer: Trainer) -> None:
    """Refuse several processes: each of them would predict a part of the inputs, or all of them again."""
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={trainer.world_size}: one process predicts all inputs; "
            "expected device=auto, cpu, gpu, mps or dp"
        )


def _use_forward(task: LightningModule) -> None:
    """Let a task without ``predict_step`` predict with ``forward``, called with the first element of each batch.

    Raises:
        UserError: it has neither.
    """
    if is_overridden("predict_step", task):
        return
    if not is_overridden("forward", task):
        raise UserError(f"{type(task).__name__}: it has neither predict_step nor forward; expected one of them")

    def predict_step(batch: Any, batch_idx: int) -> Any:
        return task(batch[0] if isinstance(batch, list | tuple) else batch)

    task.predict_step = predict_step  # type: ignore[method-assign]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_on_cpu(part) for part in value)
    return value.cpu() if isinstance(value, Tensor) else value


def _check_outputs(task: LightningModule, outputs: Any) -> None:
    name = type(task).__name__
    if not isinstance(outputs, Tensor) or not outputs.ndim:
        kind = type(outputs).__name__
        raise UserError(f"{name}: predict_step returns a {kind}; expected a tensor with a row for each sample")
    if not outputs.isfinite().all():
        raise UserError(f"{name} predicts a number that is not finite; expected a model whose training has converged")


def _numbers(outputs: Tensor) -> list[dict[str, Any]]:
    """Return records of a tensor ``(n,)`` or ``(n, columns)``."""
    if outputs.ndim == 1:
        return [{"output": value} for value in outputs.tolist()]
    if outputs.ndim == 2:
        return [{"output": {str(column): value for column, value in enumerate(row)}} for row in outputs.tolist()]
    raise UserError(
        f"the predictions have the shape {tuple(outputs.shape)}; expected (n,) or (n, columns), "
        "or a task with prediction_records"
    )
