"""Explain any failure in one line: the bad value and the valid choices, or the location of a bug."""

import contextlib
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
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
from blitz.cli.origin import config_files, file_and_line, line_with
from blitz.cli.syntax import explain_syntax
from blitz.cli.unknown_keys import explain_key
from blitz.config.checks import REQUIRED, did_you_mean
from blitz.config.paths import CONFIGS, PROJECT, as_override, choices
from blitz.errors import UserError

OPTIONAL = ("callback", "schedule", "logger")  # groups that a run can do without

MERGING = "Error merging override "  # how Hydra begins its message about an override that OmegaConf refuses


def explain(error: BaseException, config_name: str, overrides: Sequence[str]) -> str:
    """Return one line that explains ``error``, raised by ``configs/<config_name>.yaml`` with ``overrides``.

    Args:
        overrides: the arguments of the command line, or the overrides among them.
    """
    line = " ".join(_explain(error, config_name, overrides).split())
    key = re.match(r"([\w.]+)(=|: )", line)
    origin = key and file_and_line(key[1], overrides, config_name)
    return f"{re.sub(r' [(]in [^)]*[)]$', '', line)} ({origin})" if origin else line


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
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return _explain_group(error, overrides)
    if isinstance(error, ValueError) and str(error).startswith("Invalid defaults list"):
        return str(error)
    if isinstance(error.__cause__, GrammarParseError) and str(error).startswith(MERGING):
        place = str(error).partition("\n")[0].removeprefix(MERGING)
        return f"{place}: cannot read its interpolation; expected ${{KEY}}, or \\${{ for the text itself"
    if isinstance(error, ConfigCompositionException):
        return _explain_composition(error, config_name, overrides)
    if isinstance(error, InterpolationResolutionError):
        return _explain_interpolation(error, overrides)
    if isinstance(error, InstantiationException) and error.__cause__ is not None:  # a bug in a _target_
        for override in _parse(overrides):
            key = override.key_or_group
            if override.is_delete() and f"'{key.rpartition('.')[2]}'" in str(error.__cause__):
                return f"{override.input_line}: {key} is required ({error.__cause__}); expected {key}=VALUE"
        return f"{str(error).partition(':')[0]}: {_explain_bug(error.__cause__)}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_lines(error)
    if isinstance(error, UnicodeDecodeError) and (file := _file_that_is_not_utf8(overrides)):
        return f"{file}: not UTF-8 text; expected a YAML file in UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return _explain_os_error(error, overrides)
    return _explain_bug(error)


def _first_lines(error: BaseException) -> str:
    lines = (str(cause).partition("\n")[0].rstrip(": ") for cause in (error, error.__cause__) if cause)
    return ": ".join(dict.fromkeys(filter(None, lines))).removeprefix(MERGING)


def _explain_bug(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({_location(error)}; HYDRA_FULL_ERROR=1 shows the traceback)"


def _explain_choice(error: MissingConfigException, config_name: str, overrides: Sequence[str]) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = sorted(option for option in error.options or () if not option.startswith("_"))
    if choice == config_name and not group:
        return f"{CONFIGS / choice}.yaml: no such file; expected the config of blitz-{config_name}"
    if not group:
        return f"--config-name={choice}: no such config; expected one of {', '.join(choices(''))}"
    expected = f"{_suggestion(choice, options)}expected one of {', '.join(options)}" if options else "no such group"
    given = any(override.key_or_group == group for override in _parse(overrides))
    place = None if given else line_with(rf"\b{re.escape(group)}\b.*\b{re.escape(choice)}\b", overrides)
    by = f" ({place})" if place else ""
    return f"{group}={choice}: no such choice; {expected}{by}"


def _explain_group(error: BaseException, overrides: Sequence[str]) -> str:
    """Explain ``optimizer=null`` and ``optimizer={lr:1}``: a group takes the name of a config."""
    for override in _parse(overrides):
        group = override.key_or_group
        if not group:
            return explain_syntax(str(override.input_line))
        if (CONFIGS / group).is_dir() and not override.is_delete() and not isinstance(override.value(), str | list):
            names = choices(group)
            to_have_none = ""
            if group not in REQUIRED:
                way = f"{group}=none" if "none" in names else f"~{group}" if group in OPTIONAL else f"no {group}="
                to_have_none = f"; to have none: {way}"
            return f"{override.input_line}: not the name of a config; expected one of {', '.join(names)}{to_have_none}"
    return _explain_bug(error)


def _explain_composition(error: ConfigCompositionException, config_name: str, overrides: Sequence[str]) -> str:
    text = str(error).partition("\n")[0]
    if text.startswith("Ambiguous value"):
        key, _, value = text.partition("'")[2].rstrip("'").partition("=")
        return (
            f"{key}={value}: several values, but this is a single run; to run each of them add -m; for a list: "
            f"{shlex.quote(f'{key}=[{value}]')}; as text: {as_override(key, value)}"
        )
    for override in _parse(overrides):
        if text.startswith(f"Multiple values for {override.key_or_group}.") and override.is_add():
            plain = str(override.input_line).lstrip("+")
            return f"{override.input_line}: {override.key_or_group} is already chosen; expected {plain}"
    return _explain_key(error, config_name, overrides) or _explain_file(error) or _first_lines(error)


def _explain_key(error: ConfigCompositionException, config_name: str, overrides: Sequence[str]) -> str | None:
    """Explain a key that the config does not have. Return None if the error is about something else."""
    unknown = isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError)
    parsed = list(_parse(overrides))
    for override in parsed:
        if override.is_delete() or (unknown and _is_at_fault(error, override.key_or_group)):
            others = [str(other.input_line) for other in parsed if other is not override]
            if line := explain_key(override, others, config_name):
                return line
    return None


def _explain_file(error: ConfigCompositionException) -> str | None:
    """Explain a config file whose content does not fit the keys of the config."""
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
    for override in _parse(overrides):
        if missing and f"${{{missing[1]}}}" in str(override.input_line):
            return f"{override.input_line}: {reason}; expected a value or the name of another key"
    return f"{key}: its value cannot be resolved ({reason})" if key else _first_lines(error)


def _explain_os_error(error: OSError, overrides: Sequence[str]) -> str:
    """Name the override that sets the directory of the run, if it cannot be used."""
    for override in _parse(overrides):
        name = override.key_or_group
        if name in DIRECTORIES and str(error.filename) == str(override.value()):
            reason = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
            return f"{override.input_line}: {reason}; expected a directory that can be created and written"
    return f"{error.strerror}: {error.filename}"


def _file_that_is_not_utf8(arguments: Sequence[str]) -> Path | None:
    for file in config_files(arguments):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return file
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
