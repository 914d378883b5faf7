"""The charts of TensorBoard's CUSTOM SCALARS tab, each with several curves."""

import re
from collections.abc import Iterable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from blitz.callback.drawing import writers
from blitz.runs.tags import tag

Layout = dict[str, dict[str, list[Any]]]
TRAINING = ("lr", "gradient_norm", "samples_per_second", "seconds_per_step", "memory_mib", "device_memory_mib")


class Charts(Callback):
    """Write the layout once the metrics of the first epoch are known: see ``layout``."""

    def __init__(self) -> None:
        self._written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._written = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self._written or not trainer.loggers:  # LastCheckpoint removes the loggers while a resume repeats this hook
            return
        names = list(trainer.callback_metrics)  # on all ranks, because Lightning may reduce values over them now
        for writer in writers(trainer):
            writer.add_custom_scalars(layout(names))
        self._written = True

    def state_dict(self) -> dict[str, Any]:
        return {"written": self._written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._written = state_dict["written"]


def layout(metrics: Iterable[str]) -> Layout:
    """Return the charts for metrics named ``stage/name`` and ``stage/name/class``.

    A chart for each name holds the curves of training and validation. If there are values by class, one chart holds
    those of all classes. A last group holds the curves of ``callback.curves``.
    """
    names: dict[str, list[str]] = {}
    by_class: dict[str, list[str]] = {}
    for metric in metrics:
        stage, _, name = metric.partition("/")
        if stage in ("train", "val") and name and not name.endswith("_step"):
            group, _, of_class = name.partition("/")
            found = by_class.setdefault(f"{stage} {group}", []) if of_class else names.setdefault(name, [])
            found.append(_pattern(metric))
    charts: Layout = {
        "train and val": {name: ["Multiline", patterns] for name, patterns in sorted(names.items())},
        "by class": {title: ["Multiline", patterns] for title, patterns in sorted(by_class.items())},
        "training": {name: ["Multiline", [f"train/{name}$"]] for name in TRAINING},
    }
    return {category: found for category, found in charts.items() if found}


def _pattern(metric: str) -> str:
    """Return a regular expression for the tag of a metric. TensorBoard matches it against the beginning of tags."""
    return f"{re.escape(tag(metric) or metric)}$"
