"""A command line parser whose errors are one line."""

import argparse
from typing import Never

from blitz.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser that raises ``UserError`` instead of printing its usage and exiting with status 2."""

    def error(self, message: str) -> Never:
        raise UserError(message.removeprefix("argument "))
