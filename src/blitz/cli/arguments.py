"""Check the command line before Hydra parses it: report a mistake in one line, and keep paths as text."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from blitz.cli.parser import Parser
from blitz.config.checks import did_you_mean
from blitz.config.paths import NOT_TEXT, as_hydra_text
from blitz.config.schema import SCHEMAS
from blitz.errors import UserError

DIRECTORIES = ("hydra.run.dir", "hydra.sweep.dir", "output_dir")
PATHS = (*DIRECTORIES, "resume", "init_from", "reproduce", "run", "checkpoint", "data_root", "data.root", "inputs")

KEYS = {field.name for schema in SCHEMAS.values() for field in fields(schema)} - {"run"}  # --run is an option

FLAG: dict[str, Any] = {"action": "store_true"}
OPTIONS: dict[tuple[str, ...], dict[str, Any]] = {  # Hydra's options; a test compares them with its usage
    ("--help", "-h"): FLAG,
    ("--hydra-help",): FLAG,
    ("--version",): FLAG,
    ("--cfg", "-c"): {"choices": ("job", "hydra", "all")},
    ("--resolve",): FLAG,
    ("--package", "-p"): {},
    ("--run", "-r"): FLAG,
    ("--multirun", "-m"): FLAG,
    ("--shell-completion", "-sc"): FLAG,
    ("--config-path", "-cp"): {},
    ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {},
    ("--experimental-rerun",): {},
    ("--info", "-i"): {
        "nargs": "?",
        "const": "all",
        "choices": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    },
}


def prepare(program: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments for Hydra: overrides first, because its parser refuses an override after an option.

    Paths that Hydra's grammar would read as a number or a boolean are quoted.

    Args:
        program: name of the console script, for ``--version``.
        arguments: command line without the name of the program.

    Raises:
        UserError: an option does not exist or lacks its value, a directory is empty, or there is no working directory.
        SystemExit: ``--version`` is among the arguments.
    """
    for text in arguments:
        if text.startswith("-") and text.lstrip("-").partition("=")[0].partition(".")[0] in KEYS:
            raise UserError(f"{text}: no such option; expected an override without -: {text.lstrip('-')}")
    parser = Parser(add_help=False)
    known = [
        name for names, settings in OPTIONS.items() for name in parser.add_argument(*names, **settings).option_strings
    ]
    options, others = parser.parse_known_args(list(arguments))
    expected = ", ".join(names[0] for names in OPTIONS)
    for text in others:
        if text.startswith("-"):
            raise UserError(f"{text}: no such option; {did_you_mean(text, known) or f'expected one of {expected}'}")
    if options.version:
        print(f"{program} {version('blitz')}", flush=True)
        sys.exit()
    try:
        os.getcwd()  # noqa: PTH109 Path.cwd() does the same
    except FileNotFoundError:
        raise UserError("the working directory was deleted; change to one that exists: cd DIR") from None
    hydra_options = list(arguments)
    for text in others:
        hydra_options.remove(text)
    return [*map(_path_as_text, others), *hydra_options]


def _path_as_text(override: str) -> str:
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if not equals or name not in PATHS:
        return override
    if name in DIRECTORIES and value.strip("'\" ").lower() in ("", "null", "???"):
        raise UserError(f"{override}: not a directory; expected the path of one, which is created if it does not exist")
    if name == "inputs" and not re.fullmatch(r"""['"].*|[\w.,/:+-]+|\?\?\?""", value, re.ASCII):
        return f"{key}={as_hydra_text(value)}"  # names of pictures, such as a[0-9].png or b (1).png
    is_number = value and value.lower() != "null" and re.fullmatch(NOT_TEXT, value, re.IGNORECASE)
    return f"{key}={as_hydra_text(value)}" if is_number else override
