"""Explain any failure in one line: the bad value and the valid choices, or the location of a bug."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from blitz.config.checks import did_you_mean
from blitz.config.keys import leaves
from blitz.config.paths import CONFIGS, PROJECT
from blitz.errors import UserError


def explain(error: BaseException, config_name: str, overrides: Sequence[str]) -> str:
    """Return one line that explains ``error``, raised by ``configs/<config_name>.yaml`` with ``overrides``."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_choice(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; expected key=value, with quotes around spaces, commas and brackets"
    if isinstance(error, ConfigCompositionException) and (line := _explain_key(error, config_name, overrides)):
        return line
    if isinstance(error, InstantiationException) and error.__cause__ is not None:  # a bug in a _target_
        return f"{str(error).partition(':')[0]}: {_explain_bug(error.__cause__)}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        lines = (str(cause).partition("\n")[0] for cause in (error, error.__cause__) if cause)
        return ": ".join(dict.fromkeys(lines)).removeprefix("Error merging override ")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return _explain_bug(error)


def _explain_bug(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({_location(error)}; HYDRA_FULL_ERROR=1 shows the traceback)"


def _explain_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    choices = sorted(option for option in error.options or () if not option.startswith("_"))
    return f"{group}={choice}: no such choice; {_suggestion(choice, choices)}expected one of {', '.join(choices)}"


def _explain_key(error: ConfigCompositionException, config_name: str, overrides: Sequence[str]) -> str | None:
    """Explain a key that the config does not have. Return None if the error is about something else."""
    unknown = isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError)
    for override in _parse(overrides):
        key = override.key_or_group
        if not (override.is_delete() or (unknown and _is_at_fault(error, key))):
            continue
        known = _known_keys(config_name, [text for text in overrides if text != override.input_line])
        if key not in known:
            hint = _suggestion(key, known) or _siblings(key, known)
            add = f"; to add a key: +{override.input_line}" if "." in key and not hint.startswith("did") else ""
            return f"{override.input_line}: no such key; {hint.strip()}{add}".rstrip("; ")
    return None


def _is_at_fault(error: ConfigCompositionException, key: str) -> bool:
    """Return whether OmegaConf's error is about ``key`` or one of its parents."""
    full_key = getattr(error.__cause__, "full_key", None)
    return full_key is not None and (key == full_key or key.startswith(f"{full_key}."))


def _parse(arguments: Sequence[str]) -> Iterator[Override]:
    """Yield the overrides among the arguments, without options such as ``--cfg job``."""
    for text in arguments:
        if not text.startswith("-"):
            with contextlib.suppress(OverrideParseException):  # the value of an option
                yield from OverridesParser.create().parse_overrides([text])


def _known_keys(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Return every dotted key, with all its parents, of the config that the other overrides compose."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, [str(override.input_line) for override in _parse(overrides)])
        except HydraException:  # another override is wrong, too
            cfg = hydra.compose(config_name)
    keys = {str(key) for key in cfg}
    for leaf, _ in leaves(OmegaConf.to_container(cfg)):
        parts = leaf.split(".")
        keys.update(".".join(parts[: n + 1]) for n in range(len(parts)))
    return sorted(keys)


def _suggestion(name: str, choices: Sequence[str]) -> str:
    return f"{text} " if (text := did_you_mean(name, choices)) else ""


def _siblings(key: str, known: Sequence[str]) -> str:
    parent, _, _ = key.rpartition(".")
    names = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    return f"{parent or 'the config'} has {', '.join(names)}" if names else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and the errors that led to it. An error that was raised again may lead back to itself."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _location(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame in the project's own code, or of the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(PROJECT / "src"))] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"
