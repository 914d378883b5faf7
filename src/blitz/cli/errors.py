"""Explain any failure in one line: the bad value and the valid choices, or the location of a bug."""

import json
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
import omegaconf
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from yaml import MarkedYAMLError

from blitz.cli.arguments import DIRECTORIES
from blitz.cli.composition import parse, refused
from blitz.cli.origin import config_files, file_and_line, line_with
from blitz.cli.syntax import explain_syntax
from blitz.cli.unknown_keys import explain_key
from blitz.config.checks import did_you_mean
from blitz.config.paths import CONFIGS, PROJECT, as_override, choices
from blitz.errors import UserError, reason

MERGE_ERROR_PREFIX = "Error merging override "  # start of Hydra's message about an override that OmegaConf refuses


def explain(error: BaseException, config_name: str, overrides: Sequence[str]) -> str:
    """Return one line that explains ``error``, raised by ``configs/<config_name>.yaml`` with ``overrides``.

    Args:
        overrides: the arguments of the command line, or the overrides among them.
    """
    line = _as_typed(" ".join(_explain(error, config_name, overrides).split()), overrides)
    key = re.match(r"([\w.]+)(=|: )", line)
    origin = key and file_and_line(key[1], overrides, config_name)
    return f"{re.sub(r' [(]in [^)]*[)]$', '', line)} ({origin})" if origin else line


def _as_typed(line: str, overrides: Sequence[str]) -> str:
    """Replace the key and value that begin a line by the override that set them.

    An error names the argument of a class. On the command line the value may be written differently, or belong to
    another key: ``trainer.devices`` interpolates ``device.devices``.
    """
    key = line.partition("=")[0]
    typed = [override for override in parse(overrides) if override.value_type == ValueType.ELEMENT]
    for override in sorted(typed, key=lambda override: override.key_or_group != key):
        name, value = override.key_or_group.rpartition(".")[2], override.value()
        texts = "|".join(map(re.escape, (str(value), json.dumps(value, default=str), _typed_value(override))))
        start = re.match(rf"([\w.]+\.)?{re.escape(name)}=({texts})(?=[:;, ])", line)
        if start is None and isinstance(value, str) and value:
            start = re.match(rf"{re.escape(value)}(?=: )", line)  # a path
        if start:
            return f"{override.input_line}{line[start.end() :]}"
    return line


def _typed_value(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _explain(error: BaseException, config_name: str, overrides: Sequence[str]) -> str:
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MarkedYAMLError) and cause.problem_mark:
            mark = cause.problem_mark
            return f"{mark.name}:{mark.line + 1}: not valid YAML: {cause.problem or cause.context}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_choice(error, config_name, overrides)
    if isinstance(error, OverrideParseException):
        return explain_syntax(str(error.override))
    if isinstance(error, ValueError) and str(error).startswith("Invalid defaults list"):
        return str(error)
    if isinstance(error.__cause__, GrammarParseError) and str(error).startswith(MERGE_ERROR_PREFIX):
        place = str(error).partition("\n")[0].removeprefix(MERGE_ERROR_PREFIX)
        return f"{place}: invalid interpolation; expected ${{KEY}}, or \\${{ for a literal ${{"
    if isinstance(error, InterpolationResolutionError):
        return _explain_interpolation(error, overrides)
    if isinstance(error, InstantiationException) and error.__cause__ is not None:  # a bug in a _target_
        for override in parse(overrides):
            key = override.key_or_group
            if override.is_delete() and f"'{key.rpartition('.')[2]}'" in str(error.__cause__):
                return f"{override.input_line}: {key} is required ({error.__cause__}); expected {key}=VALUE"
        return f"{str(error).partition(':')[0]}: {_explain_bug(error.__cause__)}"
    if _raised_by_hydra(error) and (line := _explain_composition(error, config_name, overrides)):
        return line
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_lines(error)
    if isinstance(error, UnicodeDecodeError) and (file := _file_that_is_not_utf8(overrides)):
        return f"{file}: not UTF-8 text; expected a YAML file in UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return _explain_os_error(error, overrides)
    return _explain_bug(error)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _first_lines(error: BaseException) -> str:
    lines = (str(cause).partition("\n")[0].rstrip(": ") for cause in (error, error.__cause__) if cause)
    return ": ".join(dict.fromkeys(filter(None, lines))).removeprefix(MERGE_ERROR_PREFIX)


def _explain_bug(error: BaseException) -> str:
    text = reason(error) if str(error) else ""
    return f"{type(error).__name__}: {text} ({_location(error)}; HYDRA_FULL_ERROR=1 shows the traceback)"


def _explain_choice(error: MissingConfigException, config_name: str, overrides: Sequence[str]) -> str:
    file = str(error.missing_cfg_file)
    group, _, choice = file.rpartition("/")
    options = sorted(option for option in error.options or () if not option.startswith("_"))
    if choice == config_name and not group:
        return f"{CONFIGS / choice}.yaml: no such file; expected the config of blitz-{config_name}"
    if not group:
        return f"--config-name={choice}: no such config; expected one of {', '.join(choices(''))}"
    expected = f"{_suggestion(choice, options)}expected one of {', '.join(options)}" if options else "no such group"
    for override in parse(overrides):
        if file.startswith(f"{override.key_or_group}/"):
            shown = f"{group}={choice}" if override.is_sweep_override() else override.input_line
            return f"{shown}: no such choice; {expected}"
    place = line_with(rf"\b{re.escape(group)}\b.*\b{re.escape(choice)}\b", overrides)
    by = f" ({place})" if place else ""
    return f"{group}={choice}: no such choice; {expected}{by}"


def _explain_composition(error: BaseException, config_name: str, overrides: Sequence[str]) -> str | None:
    """Explain which override or file keeps the config from being composed. Return None for other errors."""
    text = str(error).partition("\n")[0]
    if text.startswith("Ambiguous value"):
        key, _, value = text.partition("'")[2].rstrip("'").partition("=")
        return (
            f"{key}={value}: several values, but this is a single run; to run each of them add -m; for a list: "
            f"{shlex.quote(f'{key}=[{value}]')}; as text: {as_override(key, value)}"
        )
    found = refused(config_name, overrides)
    if found and (line := _explain_override(error, *found, config_name)):
        return line
    return _explain_file(error) if isinstance(error, ConfigCompositionException) else None


def _explain_override(
    error: BaseException, override: Override, accepted: Sequence[str], config_name: str
) -> str | None:
    """Explain an override that cannot be composed. Return None if the config file that it selects is at fault."""
    key, text = override.key_or_group, override.input_line
    if (CONFIGS / key).is_dir() and not override.is_delete():
        return None
    if line := explain_key(override, accepted, config_name):
        return line
    return f"{text}: {_first_line(error.__cause__ or error)}"


def _explain_file(error: ConfigCompositionException) -> str | None:
    """Explain a config file with a key or a value that the config does not accept. Return None for other errors."""
    cause = next((cause for cause in _causes(error) if getattr(cause, "full_key", None)), None)
    if cause is None or str(error).startswith("Error merging override"):
        return None
    key, reason = getattr(cause, "full_key", ""), str(cause).partition("\n")[0]
    found = re.match(r"In '([^']+)'", str(error))
    name = f" (in {found[1]}.yaml)" if found else ""
    if found and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        wrong_package = key == found[1].rpartition("/")[0]
        header = "; a file that sets keys of other groups begins with: # @package _global_" if wrong_package else ""
        return f"{key}: no such key{header}{name}"
    return f"{key}: {reason}{name}"


def _explain_interpolation(error: InterpolationResolutionError, overrides: Sequence[str]) -> str:
    key, reason = getattr(error, "full_key", None), str(error).partition("\n")[0]
    missing = re.match(r"Interpolation key '([^']+)' not found", reason)
    for override in parse(overrides):
        if missing and f"${{{missing[1]}}}" in str(override.input_line):
            return f"{override.input_line}: {reason}; expected a value or the name of another key"
    return f"{key}: its value cannot be resolved ({reason})" if key else _first_lines(error)


def _explain_os_error(error: OSError, overrides: Sequence[str]) -> str:
    """Explain an OSError. Name the override if it sets a run directory that cannot be used."""
    for override in parse(overrides):
        name = override.key_or_group
        if name in DIRECTORIES and str(error.filename) == str(override.value()):
            reason = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
            return f"{override.input_line}: {reason}; expected a directory that can be created and written"
    if error.filename is None:  # the job names its run directory
        return f"stdout: {error.strerror}; expected an output that can be written"
    return f"{error.strerror}: {error.filename}"


def _file_that_is_not_utf8(arguments: Sequence[str]) -> Path | None:
    for file in config_files(arguments):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return file
    return None


def _raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised an error of any type."""
    frames = traceback.extract_tb(error.__traceback__)
    packages = [Path(str(package.__file__)).parent for package in (hydra, omegaconf)]
    return bool(frames) and any(Path(frames[-1].filename).is_relative_to(package) for package in packages)


def _suggestion(name: str, choices: Sequence[str]) -> str:
    return f"{text} " if (text := did_you_mean(name, choices)) else ""


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
