"""Explain an override that Hydra cannot parse, and suggest a form that it can."""

import contextlib
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from blitz.config.paths import as_override

KEY = re.compile(r"[+~]{0,2}[\w$@/-]+(\.[\w$@/-]+)*", re.ASCII)
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list|int|float|str|bool)\(.*\)")
PAIRS = {"[": "]", "{": "}", "(": ")"}


def explain_syntax(text: str) -> str:
    """Return one line with the cause and, if quotes help, the quoted override."""
    key, equals, value = text.partition("=")
    start = f"cannot read {text!r}"
    if not text.isprintable() or any("\udc80" <= char <= "\udcff" for char in text):
        return f"{start}: it has bytes that this locale cannot decode; expected UTF-8, for example with PYTHONUTF8=1"
    if not equals:
        pair = re.fullmatch(rf"({KEY.pattern})[:\s]+(\S+)", text, re.ASCII)
        return f"{start}: it has no =; expected {f'{pair[1]}={pair[3]}' if pair else 'key=value'}"
    if not KEY.fullmatch(key):
        return f"{start}: {key.strip()!r} is not a key; expected names joined by dots, such as optimizer.lr=0.1"
    quoted = as_override(key, value)
    return f"{start}: {_cause(value)}; as text: {quoted}" if value else f"{start}: no value; expected key=value"


def _cause(value: str) -> str:
    if FUNCTION.fullmatch(value):
        return "invalid arguments for Hydra's function; expected, for example, choice(1,2) or range(1,5)"
    if value.count("${") > value.count("}"):
        return "the interpolation ${ is not closed"
    if value[0] in "'\"" and value.count(value[0]) % 2:
        return f"the quote {value[0]} is not closed"
    if value[0] in PAIRS and value.count(value[0]) != value.count(PAIRS[value[0]]):
        return f"the bracket {value[0]} is not closed"
    if value.strip()[:1] == "," or value.strip()[-1:] == ",":
        return "a value is missing before or after a comma"
    special = [char for char in dict.fromkeys(value) if not _is_read(char)]
    names = " and ".join(special)
    return f"{names} must be quoted" if names else "its value is neither text, a list nor a dictionary"


def _is_read(char: str) -> bool:
    """Return whether Hydra's grammar accepts a character in unquoted text."""
    with contextlib.suppress(OverrideParseException):
        return bool(OverridesParser.create().parse_overrides([f"key=a{char}b"]))
    return False
