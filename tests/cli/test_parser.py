"""The parser of command lines."""

import pytest

from blitz.cli.parser import Parser
from blitz.errors import UserError


def test_error_is_one_line():
    parser = Parser(prog="x")
    parser.add_argument("--number", type=int)
    with pytest.raises(UserError, match=r"^--number: invalid int value: 'a'$"):
        parser.parse_args(["--number", "a"])
