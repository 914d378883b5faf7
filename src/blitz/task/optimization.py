"""Build the optimizer and the schedule of a task for Lightning, from factories in the config."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer

from blitz.config.keys import matching, needs_total_steps, number_of_steps
from blitz.errors import UserError

OptimizerFactory = Callable[..., Optimizer]
ParameterGroups = Callable[[nn.Module], Iterable[Any]]
Schedule = partial[Any] | Mapping[str, Any]


def configure(
    task: LightningModule,
    optimizer: OptimizerFactory | None,
    schedule: Schedule | None = None,
    parameter_groups: ParameterGroups | None = None,
) -> OptimizerLRScheduler:
    """Return the value of ``configure_optimizers`` for a task with one optimizer.

    Args:
        optimizer: called with the parameters, or with the parameter groups.
        schedule: called with the optimizer; returns the scheduler. The arguments ``total_steps`` and
            ``0.1 * total_steps``, even those of nested schedulers, are replaced by this number of optimizer steps. A
            scheduler with such an argument counts steps. Any other counts epochs, as in PyTorch's documentation.
            To set the interval explicitly, pass a mapping with the key ``scheduler`` and Lightning's ``interval``,
            ``frequency`` or ``monitor``.
        parameter_groups: called with the task; returns the optimizer's parameter groups. None: one group.

    Raises:
        UserError: there is no optimizer, or the training has no planned end but the schedule needs one.
    """
    if optimizer is None:
        raise UserError("task.optimizer=null: the training needs one; expected optimizer: ${optimizer}")
    made = optimizer(task.parameters() if parameter_groups is None else list(parameter_groups(task)))
    if not schedule:
        return made
    settings = dict(schedule) if isinstance(schedule, Mapping) else {"scheduler": schedule}
    factory = settings.pop("scheduler")
    counts_steps = any(needs_total_steps(value) for value in _values(factory))
    settings = {"interval": "step" if counts_steps else "epoch", **settings}
    total = task.trainer.estimated_stepping_batches if counts_steps else math.inf
    if counts_steps and total == math.inf:
        raise UserError(
            f"trainer.max_epochs={task.trainer.max_epochs}: {factory.func.__name__} needs the total number "
            "of steps; expected a limit in trainer.max_epochs or trainer.max_steps, or schedule=constant"
        )
    _check_max_lr(factory, made)
    return {"optimizer": made, "lr_scheduler": {"scheduler": _make(factory, made, total), **settings}}  # type: ignore[return-value]


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude parameters from training.

    Args:
        patterns: names of layers, such as ``net.conv1``, or patterns of parameter names, such as ``net.conv*``.

    Raises:
        UserError: a pattern matches no parameter.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        names = matching(parameters, pattern)
        if not names:
            raise UserError(
                f"task.freeze={pattern}: no parameter has such a name; expected one of {', '.join(parameters)}"
            )
        for name in names:
            parameters[name].requires_grad_(False)


def _make(value: Any, optimizer: Optimizer, total: Any) -> Any:
    """Call a scheduler's factory and the factories among its arguments. Replace ``total_steps``."""
    if isinstance(value, partial):
        arguments = {key: _make(argument, optimizer, total) for key, argument in value.keywords.items()}
        if "optimizer" in inspect.signature(value.func).parameters:  # ChainedScheduler takes it last
            return value.func(*value.args, optimizer=optimizer, **arguments)
        return value.func(optimizer, *value.args, **arguments)
    if isinstance(value, list):
        return [_make(part, optimizer, total) for part in value]
    return number_of_steps(value, total) if needs_total_steps(value) else value


def _values(value: Any) -> Iterable[Any]:
    """Yield the arguments of a factory and of the factories among them."""
    if isinstance(value, partial):
        for argument in value.keywords.values():
            yield from _values(argument)
    elif isinstance(value, list):
        for part in value:
            yield from _values(part)
    else:
        yield value


def _check_max_lr(factory: partial[Any], optimizer: Optimizer) -> None:
    """Refuse a single maximum for parameter groups with different learning rates: it would replace them."""
    rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
    highest = factory.keywords.get("max_lr")
    if len(rates) > 1 and highest is not None and not isinstance(highest, list):
        raise UserError(
            f"schedule.max_lr={highest}: it replaces the learning rates of the parameter groups, {rates}; expected a "
            "list with one maximum for each of them, or another schedule, such as schedule=cosine"
        )
