"""Checks of numbers in the data group. Each raises a UserError with the key, the value and the valid range."""

import math
from typing import Any

from blitz.errors import UserError


def check_integer(key: str, value: Any, minimum: int, maximum: int | None = None) -> None:
    """Refuse anything but a whole number from ``minimum`` to ``maximum``."""
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not valid or (maximum is not None and value > maximum):
        limits = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise UserError(f"data.{key}={value}: not a valid number; expected a whole number {limits}")


def check_positive(key: str, value: Any) -> None:
    """Refuse anything but a number > 0."""
    if not is_number(value) or not value > 0:
        raise UserError(f"data.{key}={value}: not a valid number; expected a number > 0")


def check_fraction(key: str, value: Any) -> None:
    """Refuse anything but a number >= 0 and < 1."""
    if not is_number(value) or not 0 <= value < 1:
        raise UserError(f"data.{key}={value}: not a valid number; expected a number >= 0 and < 1")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
