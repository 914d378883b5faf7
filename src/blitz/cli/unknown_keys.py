"""Explain an override of a key that the config does not have: a misspelling, or a key that must be added."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blitz.config.checks import did_you_mean, parameters
from blitz.config.paths import CONFIGS, choices
from blitz.config.schema import EvalConfig, TrainConfig

SCHEMAS: dict[str, Any] = {"train": TrainConfig, "eval": EvalConfig}


def explain_key(override: Override, others: Sequence[str], config_name: str) -> str | None:
    """Return a line about the key of ``override``, or None if the config that ``others`` compose has it."""
    key, text = override.key_or_group, str(override.input_line)
    config = _compose(config_name, others)
    parent, name = _missing_part(config, key)
    if name is None:
        return _explain_deletion(override, config, config_name) if override.is_delete() else None
    node = _select(config, parent)
    children = [str(child) for child in node if parent or child != "hydra"] if isinstance(node, dict) else []
    full_name = f"{parent}.{name}" if parent else name
    exact = key == full_name
    accepted = parameters(node["_target_"]) if exact and isinstance(node, dict) and node.get("_target_") else {}
    added = f"+{text.lstrip('+')}"
    if name in accepted:
        return f"{text}: {parent} does not have {name} yet; to add it: {added}"
    similar = did_you_mean(name, [*children, *accepted])
    rest = key.removeprefix(full_name)
    if similar:
        found = similar.removeprefix("did you mean ").removesuffix("?")
        plus = "" if found in children else "+"
        suggestion = f"{parent}.{found}" if parent else found
        with_rest = suggestion + rest if plus or _missing_part(config, suggestion + rest)[1] is None else suggestion
        return f"{text}: no such key; did you mean {plus}{with_rest}?"
    if parent and name in choices(parent):
        return f"{text}: no such key in the chosen {parent}; add {parent}={name}"
    elsewhere = [known for known in _keys(config) if known.rpartition(".")[2] == key and not known.startswith("hydra.")]
    if elsewhere:
        return f"{text}: no such key; did you mean {' or '.join(elsewhere[:3])}?"
    hint = f"; to add a key: {added}" if parent and not override.is_delete() else ""
    return f"{text}: no such key; {parent or 'the config'} has {', '.join(sorted(children)) or 'no keys'}{hint}"


def _explain_deletion(override: Override, config: dict[str, Any], config_name: str) -> str | None:
    key, text = override.key_or_group, override.input_line
    if key not in [field.name for field in fields(SCHEMAS[config_name])]:
        current = _select(config, key)
        return f"{text}: {key} is {current}; expected ~{key}" if override.value() not in (None, "", current) else None
    if (CONFIGS / key).is_dir():
        return f"{text}: not the chosen {key}; expected ~{key}, or {key}= one of {', '.join(choices(key))}"
    return f"{text}: this key cannot be deleted; expected {key}=VALUE"


def _compose(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config that the overrides compose, or the default one if they are wrong too."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            cfg = hydra.compose(config_name, return_hydra_config=True)
    config = OmegaConf.to_container(cfg)
    assert isinstance(config, dict)
    return {str(name): node for name, node in config.items()}


def _missing_part(config: Any, key: str) -> tuple[str, str | None]:
    """Return the longest part of a key that exists, and the next name, which does not; None if the key exists."""
    names = key.replace("/", ".").split(".")
    for number, name in enumerate(names):
        if not isinstance(config, dict) or name not in config:
            return ".".join(names[:number]), name
        config = config[name]
    return key, None


def _select(config: Any, key: str) -> Any:
    for name in filter(None, key.split(".")):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _keys(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{path}{name}"
            yield from _keys(value, f"{path}{name}.")
