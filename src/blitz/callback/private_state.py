"""Save and restore state that Lightning keeps in private attributes and does not save.

- the sums behind ``self.log(..., on_epoch=True)`` in ``training_step``;
- the number of validation batches so far, which is the x axis of values that ``validation_step`` logs by step;
- the step of the last save of each ``ModelCheckpoint``, because it does not save twice at the same step.

Lightning 2.6.6 has no public API for them. If a version lacks an attribute, its value is not restored: without the
sums, a resumed run logs the mean of the steps after the resume. ``tests/callback/test_private_state.py`` fails first.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

Sums = dict[str, dict[str, Any]]  # by hook and name, such as training_step.loss


def saved(trainer: Trainer) -> dict[str, Any]:
    """Return the state of this rank, for a checkpoint."""
    state: dict[str, Any] = {"sums": {name: _sum(result) for name, result in _open_results(trainer).items()}}
    with suppress(AttributeError):
        validation = trainer.fit_loop.epoch_loop.val_loop
        state["seen"] = dict(validation._seen_batches_per_dataloader)  # noqa: SLF001 - see the module
    with suppress(AttributeError):
        state["saved_steps"] = [callback._last_global_step_saved for callback in _checkpoints(trainer)]  # noqa: SLF001 - see the module
    return state


def restore_counters(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore everything but the sums, which Lightning creates when a value is logged for the first time."""
    with suppress(AttributeError):
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation._seen_batches_per_dataloader.update(state.get("seen", {}))  # noqa: SLF001 - see the module
    for callback, step in zip(_checkpoints(trainer), state.get("saved_steps", []), strict=False):
        if hasattr(callback, "_last_global_step_saved"):
            callback._last_global_step_saved = step  # noqa: SLF001 - see the module


def add_sums(trainer: Trainer, sums: Sums) -> None:
    """Add the saved sums to the sums of values that were logged since, and remove them from ``sums``.

    Call this after each step. The result is bitwise exact only if a saved sum is added to a single value.
    """
    results = _open_results(trainer)
    for name in sums.keys() & results.keys():
        before, result = sums.pop(name), results[name]
        meta = result.meta
        chosen = meta.is_max_reduction or meta.is_min_reduction
        value = before["value"].to(result.value.device)
        result.value = meta.reduce_fx(value, result.value) if chosen else value + result.value
        if "size" in before:
            result.cumulated_batch_size = before["size"].to(result.value.device) + result.cumulated_batch_size


def _open_results(trainer: Trainer) -> dict[str, Any]:
    """Return the values that are averaged or summed over the current epoch, by name."""
    with suppress(AttributeError):
        results: Any = trainer.fit_loop.epoch_loop._results  # noqa: SLF001 - see the module
        return {
            name: result for name, result in results.items()
            if result.is_tensor and result.meta.on_epoch and not result.has_reset
        }  # fmt: skip
    return {}


def _sum(result: Any) -> dict[str, Any]:
    size = {"size": result.cumulated_batch_size.cpu().clone()} if result.meta.is_mean_reduction else {}
    return {"value": result.value.detach().cpu().clone(), **size}


def _checkpoints(trainer: Trainer) -> Iterator[ModelCheckpoint]:
    return (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint))
