"""Statistics of a few numbers: mean, standard deviation, and the paired difference of two samples."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple


class Summary(NamedTuple):
    """Mean and sample standard deviation, which is None for a single value."""

    n: int
    mean: float
    std: float | None


class Difference(NamedTuple):
    """Mean of paired differences and its confidence interval, which is None for a single pair."""

    n: int
    mean: float
    interval: tuple[float, float] | None


def summarize(values: Sequence[float]) -> Summary:
    return Summary(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Difference:
    """Return the mean of ``first - second`` and its confidence interval.

    The interval is ``mean ± t * s / sqrt(n)``. ``s`` is the standard deviation of the n differences and ``t`` the
    quantile of Student's distribution with n - 1 degrees of freedom. It assumes that the differences are normally
    distributed (Student, "The probable error of a mean", Biometrika 6, 1908).
    """
    n, mean, std = summarize([a - b for a, b in zip(first, second, strict=True)])
    if std is None:
        return Difference(n, mean, None)
    half = student_t(confidence, n - 1) * std / math.sqrt(n)
    return Difference(n, mean, (mean - half, mean + half))


def student_t(confidence: float, degrees: int) -> float:
    """Return the t for which a variable of Student's distribution lies in [-t, t] with probability ``confidence``."""
    low, high = 0.0, math.pi / 2
    while (angle := (low + high) / 2) not in (low, high):  # until the interval holds no other number
        low, high = (angle, high) if _probability(angle, degrees) < confidence else (low, angle)
    return math.sqrt(degrees) * math.tan(angle)


def _probability(angle: float, degrees: int) -> float:
    """Return the probability of [-t, t] for ``t = sqrt(degrees) * tan(angle)``.

    The series is finite and exact: equations 26.7.3 and 26.7.4 of Abramowitz and Stegun, "Handbook of mathematical
    functions", 1964.
    """
    odd = degrees % 2
    cosine = math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):  # 1, 3, ... or 0, 2, ..., up to degrees - 2
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
