"""Copies of torchmetrics objects for each stage, with their logged names and their states in a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, distributed, nn
from torchmetrics import Metric

State = dict[str, Any]  # of a metric, by the name of the value


class StageMetrics(nn.Module):
    """Copies of metrics for ``train``, ``val`` and ``test``.

    Args:
        metrics: by name. They are updated with predictions and targets. Empty batches are skipped.
        classes: names of the classes. If a metric returns one value per class, each is logged with the class name.
    """

    def __init__(self, metrics: Mapping[str, Metric], classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes = list(classes)
        self.metrics = list(metrics)
        self.train_copies, self.val_copies, self.test_copies = (
            nn.ModuleList(metric.clone() for metric in metrics.values()) for _ in range(3)
        )

    def _of(self, stage: str) -> dict[str, Metric]:
        return dict(zip(self.metrics, getattr(self, f"{stage}_copies"), strict=True))

    def update(self, stage: str, predictions: Tensor, targets: Tensor) -> None:
        for metric in self._of(stage).values() if self.metrics and len(targets) else ():
            metric.update(predictions, targets)

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Return the values by logged name, over all ranks, and reset the metrics."""
        values: dict[str, Tensor] = {}
        for name, metric in self._of(stage).items():
            values |= self._by_class(f"{stage}/{name}", metric.compute())
        self.reset(stage)
        return values

    def reset(self, stage: str) -> None:
        for metric in self._of(stage).values():
            metric.reset()

    def names(self, stage: str) -> list[str]:
        """Return the names that may be logged: those of the metrics, and those of each metric by class."""
        return [
            name for metric in self._of(stage)
            for name in (f"{stage}/{metric}", *(f"{stage}/{metric}/{label}" for label in self.classes))
        ]  # fmt: skip

    def _by_class(self, name: str, value: Any) -> dict[str, Tensor]:
        if isinstance(value, Mapping):
            return {
                key: one
                for part, found in value.items()
                for key, one in self._by_class(f"{name}/{part}", found).items()
            }
        if value.ndim == 0:
            return {name: value}
        labels = self.classes if len(value) == len(self.classes) else [str(index) for index in range(len(value))]
        return {f"{name}/{label}": one for label, one in zip(labels, value, strict=True)}

    def states(self, stage: str) -> list[dict[str, State]]:
        """Return the states of all ranks on the CPU, by rank and metric. This is a collective operation."""
        own = {name: {key: _on_cpu(value) for key, value in metric.metric_state.items()}
               for name, metric in self._of(stage).items()}  # fmt: skip
        if not own:
            return []
        if not distributed.is_initialized():
            return [own]
        ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, own)
        return ranks

    def load_states(self, stage: str, ranks: Sequence[Mapping[str, State]]) -> None:
        """Restore the state of this rank. The metrics stay empty if the checkpoint has another number of ranks."""
        rank, size = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        for name, state in ranks[rank].items() if len(ranks) == size else ():
            metric = self._of(stage)[name]
            for key, value in state.items():
                setattr(
                    metric,
                    key,
                    [part.to(metric.device) for part in value] if isinstance(value, list) else value.to(metric.device),
                )


def _on_cpu(value: Any) -> Any:
    return [part.cpu() for part in value] if isinstance(value, list) else value.detach().cpu().clone()
