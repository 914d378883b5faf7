"""Checks of a composed config: values first, then each ``_target_``'s arguments against its signature."""

import contextlib
import difflib
import inspect
import logging
import math
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, Literal

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from blitz.config.keys import leaves, needs_total_steps
from blitz.config.paths import choices
from blitz.config.schema import SCHEMAS
from blitz.errors import UserError

REQUIRED = ("task", "trainer", "device")  # groups that every run has
PARTS = ("model", "optimizer", "schedule")  # groups that have no effect unless the task refers to them
DIRECTIONS = ("max", "min")
LOSSES = ("loss", *(f"{stage}{sign}loss" for stage in ("train", "val", "test") for sign in "/_"))
STAGES = ("val", "test")
FORMATS = {"predict": ("csv", "json"), "export": ("onnx", "torch_export")}
MAX_GRID = 400  # pictures: a grid of more could not be read
MAX_PER_CORE = 4  # CPU threads or processes per core: more of them would only wait for each other
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a dictionary",
    object: "an object: a _target_ with its arguments",
}
LISTS = (list, tuple, Sequence, Iterable, Collection)
VALUES = ("builtins", "typing", "collections", "numbers", "enum", "torch")  # modules of classes that need no _target_
LARGEST = 2**63  # torch has no larger whole numbers


def check_values(cfg: DictConfig) -> None:
    """Refuse missing groups and values, unknown keys, and numbers out of range, without importing any ``_target_``.

    Raises:
        UserError: with the key, the value and the valid range.
    """
    _check_keys(cfg)
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if value == MISSING:
            raise UserError(f"{key} must be given: add {key}=VALUE")
    _check_interpolations(cfg)
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=True)):
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{key}=nan: not a number; expected a number")
        if isinstance(value, int) and not -LARGEST <= value < LARGEST:
            raise UserError(f"{key}={value}: too large; expected a number with at most 18 digits")
    if "checkpoint" in cfg and (cfg.run is None) == (cfg.checkpoint is None):
        problem = "no model" if cfg.run is None else f"run={cfg.run} and checkpoint={cfg.checkpoint}: two models"
        raise UserError(f"{problem}; expected either run=DIR or checkpoint=FILE")
    _check_choice(cfg, "direction", DIRECTIONS)
    if cfg.get("optimized_metric") in LOSSES and cfg.direction == "max":
        raise UserError(
            f"direction=max: it would select the checkpoint with the largest {cfg.optimized_metric}; "
            "expected direction=min"
        )
    _check_choice(cfg, "stage", STAGES)
    _check_choice(cfg, "format", FORMATS.get(_script(cfg), ()))
    _check_number(cfg, "grid", int, minimum=0, below=MAX_GRID + 1)
    _check_number(cfg, "optimizer.lr", float, minimum=0)
    _check_number(cfg, "data.batch_size", int, minimum=1)
    _check_number(cfg, "data.eval_batch_size", int, minimum=1)
    _check_number(cfg, "data.val_fraction", float, minimum=0, below=1)
    _check_number(cfg, "trainer.accumulate_grad_batches", int, minimum=1)
    _check_number(cfg, "trainer.gradient_clip_val", float, minimum=0, nullable=True)
    _check_number(cfg, "trainer.log_every_n_steps", int, minimum=0, nullable=True)
    _check_number(cfg, "trainer.check_val_every_n_epoch", int, minimum=1, nullable=True)
    _check_number(cfg, "threads", int, minimum=1, below=_max_processes() + 1, nullable=True)
    _check_number(cfg, "seed", int, minimum=0, below=2**32, nullable=True)
    for group in ("optimizer", "schedule"):
        for key, value in leaves(OmegaConf.to_container(cfg, resolve=True).get(group), group):  # type: ignore[union-attr]
            if isinstance(value, float) and math.isinf(value):
                raise UserError(f"{key}={value}: not a finite number; expected a finite number")
    _check_devices(cfg)
    _check_training_ends(cfg)
    _check_monitors(cfg)


def _check_keys(cfg: DictConfig) -> None:
    """Refuse groups without a ``_target_`` and unknown top-level keys, which would make a run impossible to resume."""
    plain: Any = OmegaConf.to_container(cfg)
    known = sorted(field.name for field in fields(SCHEMAS[_script(cfg)]))
    for key, value in plain.items():
        if key not in known:
            raise UserError(
                f"{key}={value}: no such key; expected one of {', '.join(known)}, or a key below one of them, "
                f"such as +model.{key}={value}"
            )
    if "resume" not in cfg:
        return
    for group in (*REQUIRED, "data", "model", "optimizer", "schedule"):
        node = plain.get(group) or {}
        if group == "schedule" and (not node or "scheduler" in node):
            continue
        needed = ("accelerator", "strategy", "devices") if group == "device" else ("_target_",)
        absent = [key for key in needed if isinstance(node, dict) and node.get(key) is None]
        if absent and (node or group in REQUIRED or _refers([plain["task"]], group)):
            raise UserError(f"{group} has no {absent[0]}; expected {group}= one of {', '.join(choices(group))}")


def _script(cfg: DictConfig) -> str:
    """Return the name of the script whose config this is. A config without a schema is one of the training."""
    kind = OmegaConf.get_type(cfg)
    return next((name for name, schema in SCHEMAS.items() if schema is kind), "train")


def check_used(cfg: DictConfig) -> None:
    """Refuse an unused model, optimizer or schedule: its settings would have no effect.

    Raises:
        UserError: with the override that leaves it out.
    """
    if cfg.resume is not None or cfg.reproduce is not None:  # in a recorded config the references are resolved
        return
    plain: Any = OmegaConf.to_container(cfg)
    unused = [group for group in PARTS if plain.get(group)]
    referring = [node for name, node in plain.items() if name not in PARTS]
    while found := [group for group in unused if _refers(referring, group)]:
        unused = [group for group in unused if group not in found]
        referring += [plain[group] for group in found]
    if unused:
        raise UserError(
            f"{unused[0]}={plain[unused[0]].get('_target_')}: the task {plain['task']['_target_']} does not use it; "
            f"expected {' '.join(f'~{group}' for group in unused)}, in a file of configs/experiment "
            f"override /{unused[0]}: null, or {unused[0]}: ${{{unused[0]}}} among the arguments of the task"
        )


def _refers(nodes: Any, group: str) -> bool:
    return any(re.search(rf"\$\{{{group}[.}}]", str(value)) for _, value in leaves(nodes))


def _check_interpolations(cfg: DictConfig) -> None:
    """Refuse an interpolation of a key that does not exist. OmegaConf would not name the key that holds it."""
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if "${" in str(value):
            try:
                OmegaConf.select(cfg, key)
            except InterpolationKeyError as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"{key}={value}: {reason}; expected a value or the name of another key") from error


def _max_processes() -> int:
    return max(8, MAX_PER_CORE * (os.cpu_count() or 1))


def _check_devices(cfg: DictConfig) -> None:
    """Refuse more processes or replicas on the CPU than its cores can run, unless ``device.force=true``."""
    devices, most = OmegaConf.select(cfg, "trainer.devices"), _max_processes()
    force = OmegaConf.select(cfg, "device.force")
    if force is not None and not force and _matches_type(devices, int) and devices > most:
        raise UserError(
            f"trainer.devices={devices}: too many for {os.cpu_count()} CPU cores; expected <= {most}, "
            "or device.force=true"
        )


def _check_training_ends(cfg: DictConfig) -> None:
    """Refuse a training without a step or an end. ``max_epochs=null`` would be 1,000 epochs for Lightning."""
    trainer = OmegaConf.select(cfg, "trainer") or {}
    for key in ("max_epochs", "max_steps", "limit_train_batches", "limit_test_batches"):
        if trainer.get(key) == 0:
            raise UserError(f"trainer.{key}=0: a run takes at least one step and ends with a test; expected > 0")
    if "max_epochs" not in trainer:
        return
    interval: Any = trainer.get("val_check_interval")
    if _matches_type(interval, float) and interval <= 0:
        raise UserError(f"trainer.val_check_interval={interval}: not a valid value; expected a number > 0")
    epochs, steps, time = (trainer.get(f"max_{name}") for name in ("epochs", "steps", "time"))
    targets = [str(value) for key, value in leaves(OmegaConf.to_container(cfg.callback)) if key.endswith("_target_")]
    stops = epochs == -1 and any("EarlyStopping" in target for target in targets)
    if epochs in (None, -1) and steps in (None, -1) and time is None and not stops:
        value = "null" if epochs is None else epochs
        raise UserError(
            f"trainer.max_epochs={value}: the training would never end; expected a whole number >= 1, or a limit in "
            "trainer.max_steps or +trainer.max_time"
        )


def _check_choice(cfg: DictConfig, key: str, choices: Iterable[str]) -> None:
    if key in cfg and cfg[key] not in choices:
        raise UserError(f"{key}={cfg[key]}: not a valid value; expected {' or '.join(choices)}")


def _check_monitors(cfg: DictConfig) -> None:
    """Refuse a schedule or a callback that follows ``optimized_metric``, cannot do without it, and has none."""
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    parts = {f"callback.{name}": node for name, node in (resolved.get("callback") or {}).items()}
    for key, node in {**parts, "schedule": resolved.get("schedule")}.items():
        absent = isinstance(node, dict) and node.get("monitor", "") is None
        if absent and not str(node.get("_target_")).endswith("ModelCheckpoint"):
            raise UserError(f"{key}.monitor=null: it needs a metric; expected one in optimized_metric or {key}.monitor")


def _check_number(
    cfg: DictConfig, key: str, kind: type, minimum: float, below: float = math.inf, nullable: bool = False
) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if node is None or name not in node or (nullable and node[name] is None):
        return
    value = node[name]
    expected = f"{TYPE_NAMES[kind]} >= {minimum}" + (f" and < {below}" if below < math.inf else "")
    if not _matches_type(value, kind) or not minimum <= value < below:
        shown = "null" if value is None else value
        raise UserError(f"{key}={shown}: not a valid value; expected {expected}")


def check_arguments(cfg: DictConfig) -> None:
    """Refuse an argument whose name or type its ``_target_`` does not accept. Imports the targets.

    An interpolated value is checked only under the key that it refers to.

    Raises:
        UserError: with the key and the arguments or types that the target accepts.
    """
    for path, node in _targets(OmegaConf.to_container(cfg), OmegaConf.to_container(cfg, resolve=True)):
        target = node["_target_"]
        if not isinstance(target, str):
            raise UserError(f"{path}._target_={target}: not the name of a class; expected one such as torch.nn.Linear")
        try:
            with _logging_disabled():
                arguments = _signature(get_object(target))
        except Exception as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise UserError(f"{path}._target_={target}: cannot be imported ({reason})") from error
        accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in arguments.values())
        for key, value in node.items():
            if key in arguments:
                _check_type(f"{path}.{key}", value, arguments[key])
            elif not key.startswith("_") and not accepts_any:
                accepted = did_you_mean(key, arguments) or f"it takes {', '.join(k for k in arguments if k != 'self')}"
                raise UserError(f"{path}.{key}: {target} takes no {key}; {accepted}")
        for key, argument in arguments.items() if not {"_partial_", "_args_"} & node.keys() else ():
            if argument.default is argument.empty and argument.kind in NAMED and key not in node:
                raise UserError(f"{path}.{key} must be given: add +{path}.{key}=VALUE")


def parameters(target: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a ``_target_`` by name; an empty dict if it cannot be imported."""
    try:
        with _logging_disabled():
            found = _signature(get_object(target))
    except Exception:
        return {}
    return {name: parameter for name, parameter in found.items() if name != "self" and parameter.kind in NAMED}


@contextlib.contextmanager
def _logging_disabled() -> Iterator[None]:
    """Keep Hydra from logging an import error that it also raises."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def did_you_mean(name: str, choices: typing.Iterable[str]) -> str:
    """Return ``did you mean ...?`` with the most similar choice, or an empty string if none is similar."""
    similar = difflib.get_close_matches(name, list(choices), 1)
    return f"did you mean {similar[0]}?" if similar else ""


def _targets(unresolved: Any, resolved: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every resolved node with a ``_target_``, unless it is an interpolation of another one."""
    if isinstance(resolved, list):
        nodes = (unresolved, resolved)
        unresolved, resolved = (dict(enumerate(node)) if isinstance(node, list) else node for node in nodes)
    if not isinstance(resolved, dict) or not isinstance(unresolved, dict):
        return
    if "_target_" in resolved:
        yield path, resolved
    for key, value in resolved.items():
        yield from _targets(unresolved[key], value, f"{path}.{key}" if path else str(key))


def _signature(target: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters by name. ``**settings: Unpack[SomeTypedDict]`` stands for the keys of the TypedDict."""
    try:
        parameters = dict(inspect.signature(target, eval_str=True).parameters)
    except NameError:  # an annotation uses names that are imported only for type checkers
        return inspect.signature(target).parameters
    except ValueError:  # a function written in C
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}
    for name, parameter in list(parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD and typing.get_origin(parameter.annotation) is typing.Unpack:
            (keys,) = typing.get_args(parameter.annotation)
            del parameters[name]
            for key, annotation in typing.get_type_hints(keys).items():
                default = parameter.empty if key in keys.__required_keys__ else ...
                parameters[key] = inspect.Parameter(key, parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    return parameters


def _check_type(path: str, value: Any, parameter: inspect.Parameter) -> None:
    is_default = value is None and parameter.default is None
    # An annotation that is still text holds a name that only type checkers import.
    unknown = parameter.annotation is parameter.empty or isinstance(parameter.annotation, str)
    if not (is_default or unknown or needs_total_steps(value) or _matches(value, parameter.annotation)):
        shown = "null" if value is None else value
        expected = dict.fromkeys(type_names(parameter.annotation))
        raise UserError(f"{path}={shown}: not a valid value; expected {', '.join(expected)}")


def _matches(value: Any, annotation: Any) -> bool:
    """Return whether an annotation accepts a value of a config, or whether it accepts more than YAML has."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    if parts := _alternatives(annotation):
        return any(_matches(value, part) for part in parts)
    if annotation in (None, types.NoneType):
        return value is None or value == {}  # such as the empty config of a group
    kind = _yaml_type(annotation)
    return kind is None or (kind is not object and _matches_type(value, kind))


def type_names(annotation: Any) -> Iterator[str]:
    """Yield the names of the types, and the literal values, that an annotation accepts."""
    for part in _alternatives(annotation) or (annotation,):
        if part not in (None, types.NoneType):
            kind = _yaml_type(part)
            yield TYPE_NAMES[kind] if isinstance(kind, type) else str(kind)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the parts of a union and the values of a literal, or nothing for any other annotation."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        parts = typing.get_args(annotation)
        return tuple(inner for part in parts for inner in _alternatives(part) or (part,))
    return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()


def _yaml_type(annotation: Any) -> Any:
    """Return a literal value unchanged, the key of ``TYPE_NAMES`` for a type, and None for a type without one."""
    if isinstance(annotation, str | int):
        return annotation
    origin: Any = typing.get_origin(annotation) or annotation
    if origin in TYPE_NAMES and origin is not object:
        return origin
    if not inspect.isclass(origin):
        return None
    if origin in LISTS:
        return list
    if origin in (Mapping, MutableMapping) or typing.is_typeddict(origin):
        return dict
    if issubclass(origin, os.PathLike):
        return str
    is_value = origin.__module__ in VALUES or issubclass(origin, Enum)
    return None if is_value and origin is not Callable else object


def _matches_type(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else type(value) is type(kind) and value == kind
