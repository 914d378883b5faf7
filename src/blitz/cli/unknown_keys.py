"""Explain an override whose key is not in the config, or already is: a misspelling, a missing + or an extra one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from hydra.core.override_parser.types import Override

from blitz.cli.composition import compose
from blitz.config.checks import did_you_mean, parameters, type_names
from blitz.config.paths import CONFIGS, choices
from blitz.config.schema import SCHEMAS


def explain_key(override: Override, others: Sequence[str], config_name: str) -> str | None:
    """Return a line about the key of ``override``, or None if it fits the config that ``others`` compose."""
    key, text = override.key_or_group, str(override.input_line)
    config = compose(config_name, others)
    parent, name = _missing_part(config, key)
    if name is None:
        return _explain_known(override, config, config_name)
    node = _select(config, parent)
    if not isinstance(node, dict):
        shown = "a list" if isinstance(node, list) else node if isinstance(node, str) else json.dumps(node)
        return f"{text}: {parent} is {shown}, which has no {name}; expected {parent}=VALUE"
    children = [str(child) for child in node if parent or child != "hydra"]
    full_name = f"{parent}.{name}" if parent else name
    exact = key == full_name
    accepted = parameters(node["_target_"]) if exact and node.get("_target_") else {}
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
    hint = f"; to add a key: {added}" if parent and "/" not in key and not override.is_delete() else ""
    return f"{text}: no such key; {parent or 'the config'} has {', '.join(sorted(children)) or 'no keys'}{hint}"


def _explain_known(override: Override, config: dict[str, Any], config_name: str) -> str | None:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_add():
        return f"{text}: {key} is already in the config; expected {text.lstrip('+')}"
    if not override.is_delete():
        annotation = get_type_hints(SCHEMAS[config_name]).get(key, type(_select(config, key)))
        known = key in config or annotation in (dict, list)
        return f"{text}: not a valid value; expected {', '.join(type_names(annotation))}" if known else None
    if key not in [field.name for field in fields(SCHEMAS[config_name])]:
        current = _select(config, key)
        return f"{text}: {key} is {current}; expected ~{key}" if override.value() not in (None, "", current) else None
    if (CONFIGS / key).is_dir():
        return f"{text}: not the chosen {key}; expected ~{key}, or {key}= one of {', '.join(choices(key))}"
    return f"{text}: this key cannot be deleted; expected {key}=VALUE"


def _missing_part(config: Any, key: str) -> tuple[str, str | None]:
    """Return the longest existing prefix of a key, and the first missing name, or None if the whole key exists."""
    names = key.replace("/", ".").split(".")
    for number, name in enumerate(names):
        children = _children(config)
        if name not in children:
            return ".".join(names[:number]), name
        config = children[name]
    return key, None


def _select(config: Any, key: str) -> Any:
    for name in filter(None, key.split(".")):
        config = _children(config).get(name)
    return config


def _children(node: Any) -> dict[str, Any]:
    """Return the values of a dictionary, or those of a list by their index."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return {str(name): value for name, value in items}


def _keys(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{path}{name}"
            yield from _keys(value, f"{path}{name}.")
