"""Check the choices of config groups before Hydra does, because Hydra would also read files of other directories."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override, ValueType

from blitz.cli.composition import parse
from blitz.config.paths import CONFIGS, choices, groups
from blitz.errors import UserError

NAME = re.compile(r"(?!_)[\w+-][\w.+ -]*(/[\w+-][\w.+ -]*)*|.*\$\{.*")  # of a config, or an interpolation
NEEDED = ("trainer", "device", "hydra", "sweep")
SINGLE = (*NEEDED, "data", "model", "task", "optimizer", "schedule")  # groups whose configs describe one object


def check_groups(arguments: Sequence[str], config_name: str) -> None:
    """Refuse an override of a config group whose value cannot be the name of a config. Hydra reports unknown names.

    Raises:
        UserError: with the override and the valid choices.
    """
    if any(text.startswith(("--config-name", "-cn", "--config-path", "-cp")) for text in arguments):
        return
    defaults = groups(config_name)
    for override in parse(arguments):
        if (CONFIGS / override.key_or_group).is_dir() and override.package is None:
            _check(override, defaults, config_name)


def _check(override: Override, defaults: dict[str, str | None], config_name: str) -> None:
    group, text = override.key_or_group, override.input_line
    if group not in defaults:
        raise UserError(f"{text}: blitz-{config_name} has no group {group}; expected one of {', '.join(defaults)}")
    expected = f"expected {group}= one of {', '.join(choices(group))}"
    if override.is_delete():
        if group in NEEDED:
            raise UserError(f"{text}: this group cannot be deleted; {expected}")
        return
    if override.is_add():
        raise UserError(f"{text}: {group} is already in the config; expected {str(text).lstrip('+')}")
    for value in _values(override):
        if isinstance(value, list) and group not in SINGLE and all(map(_is_name, value)):
            continue
        if not _is_name(value):
            required = group in NEEDED or value is not None
            none = "" if required else f"; to have none: {_none(group, defaults)}"
            raise UserError(f"{text}: not the name of a config; {expected}{none}")


def _values(override: Override) -> list[Any]:
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        return list(override.sweep_string_iterator())
    return [override.value()] if override.value_type == ValueType.ELEMENT else []  # a range or a pattern


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and NAME.fullmatch(str(value)) is not None


def _none(group: str, defaults: dict[str, str | None]) -> str:
    """Return the override that removes a group from a run."""
    if "none" in choices(group):
        return f"{group}=none"
    return f"~{group}" if defaults[group] else f"no {group}="
