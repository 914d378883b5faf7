"""Find the line of a config file that sets a key or matches a pattern."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from blitz.config.paths import CONFIGS, shorten

PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)


def file_and_line(key: str, arguments: Sequence[str], config_name: str) -> str | None:
    """Return ``file:line`` of the last file that sets ``key``, or None if an override or no file sets it.

    Args:
        arguments: those of the command line. Only the files that they select and that of ``config_name`` are searched.
    """
    values = {name.lstrip("+~"): value for name, _, value in (text.partition("=") for text in arguments)}
    if any(name == key or ("." in name and key.startswith(f"{name}.")) for name in values):
        return None
    found = None
    for file in config_files(arguments, config_name):
        package = "" if file.stem == config_name else file.parent.name
        if line := _line_of(file, package, key):
            found = f"{shorten(file.absolute())}:{line}"
    return found


def config_files(arguments: Sequence[str], config_name: str = "train") -> Iterator[Path]:
    """Yield the file of ``config_name`` and the files that arguments such as ``experiment=mnist`` select."""
    for root in (CONFIGS, *config_dirs(arguments)):
        texts = (text.lstrip("+").partition("=") for text in arguments)
        files = (root / group / f"{choice}.yaml" for group, _, choice in texts)
        yield from (file for file in (root / f"{config_name}.yaml", *files) if file.is_file())


def line_with(pattern: str, arguments: Sequence[str]) -> str | None:
    """Return ``file:line`` of the last line that matches ``pattern`` in the files that the arguments select."""
    found = None
    for file in config_files(arguments):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found = f"{shorten(file.absolute())}:{number}"
    return found


def config_dirs(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the directories that ``--config-dir`` names."""
    for option, following in itertools.zip_longest(arguments, arguments[1:]):
        name, _, value = option.partition("=")
        if name in ("--config-dir", "-cd"):
            yield Path(value or following or "")


def _line_of(file: Path, package: str, key: str) -> int | None:
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if header := PACKAGE.search(text):
        package = header[1].removeprefix("_global_").removeprefix(".")
    lines = dict(_lines(root, f"{package}." if package else ""))
    return lines.get(re.sub(r"(\.\d+)+$", "", key))  # for an element, the line of its list


def _lines(node: yaml.Node | None, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield f"{path}{name.value}", name.start_mark.line + 1
            yield from _lines(value, f"{path}{name.value}.")
