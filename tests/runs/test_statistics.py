"""Statistics, against hand-computed values and printed tables."""

import math

import pytest

from blitz.runs.statistics import Difference, Summary, paired_difference, student_t, summarize

# Critical values of Student's t, two-sided, by degrees of freedom, as printed in NIST/SEMATECH e-Handbook, 1.3.6.7.2.
TABLE = {
    0.95: {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 100: 1.984},
    0.99: {1: 63.657, 2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 9: 3.250, 10: 3.169, 30: 2.750, 100: 2.626},
}


@pytest.mark.parametrize("confidence", TABLE)
def test_quantiles_are_those_of_printed_tables(confidence):
    for degrees, expected in TABLE[confidence].items():
        assert student_t(confidence, degrees) == pytest.approx(expected, abs=5.1e-4), degrees


def test_quantiles_with_closed_forms():
    """Cauchy's distribution has one degree of freedom. With two, P(|T| <= t) = t / sqrt(2 + t²)."""
    for confidence in (0.1, 0.5, 0.9, 0.95, 0.999):
        assert student_t(confidence, 1) == pytest.approx(math.tan(math.pi / 2 * confidence), rel=1e-12)
        squared = 2 * confidence**2 / (1 - confidence**2)
        assert student_t(confidence, 2) == pytest.approx(math.sqrt(squared), rel=1e-12)


def test_quantiles_approach_those_of_the_normal_distribution():
    assert student_t(0.95, 100_000) == pytest.approx(1.959964, abs=5e-5)


def test_mean_and_standard_deviation():
    """The squared deviations from 5 are 9, 1, 1, 1, 0, 0, 4 and 16; their sum over 7 is 32 / 7."""
    assert summarize([2, 4, 4, 4, 5, 5, 7, 9]) == Summary(8, 5, pytest.approx(math.sqrt(32 / 7)))
    assert summarize([3.5]) == Summary(1, 3.5, None)


def test_paired_difference():
    """The differences are 1, 0 and 1: mean 2/3, standard deviation 1/sqrt(3), standard error 1/3."""
    n, mean, (low, high) = paired_difference([1, 2, 3], [0, 2, 2])
    assert (n, mean) == (3, pytest.approx(2 / 3))
    assert (low, high) == pytest.approx((2 / 3 - 4.3027 / 3, 2 / 3 + 4.3027 / 3), abs=1e-4)
    assert paired_difference([1.0], [0.5]) == Difference(1, 0.5, None)
    assert paired_difference([1.0, 2.0], [0.5, 1.5]) == Difference(2, 0.5, (0.5, 0.5))
