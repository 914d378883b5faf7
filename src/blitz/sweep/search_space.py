"""The search space of a study: overrides in Hydra's syntax, as distributions of Optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from blitz.config.checks import did_you_mean
from blitz.errors import UserError, reason

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Point = dict[str, Any]  # the value of each swept key; of a choice, its text


@dataclass(frozen=True)
class SearchSpace:
    """The swept keys of a study.

    Args:
        distributions: of the swept keys.
        fixed: the overrides that all jobs share.
    """

    distributions: "Mapping[str, BaseDistribution]"
    fixed: Sequence[str]

    def overrides(self, point: Point) -> list[str]:
        """Return the swept overrides of a job."""
        return [f"{key}={point[key]}" for key in self.distributions]

    def labels(self, point: Point) -> list[str]:
        """Return the swept overrides with numbers of four digits, to be read."""
        return [
            f"{key}={point[key]:.4g}" if isinstance(point[key], float) else f"{key}={point[key]}"
            for key in self.distributions
        ]

    def contains(self, point: Point) -> bool:
        """Return whether a point has a value for each key."""
        return point.keys() == self.distributions.keys()

    def grid(self) -> list[Point]:
        """Return all points.

        Raises:
            UserError: a key has an interval.
        """
        values = [_values(key, distribution) for key, distribution in self.distributions.items()]
        return [dict(zip(self.distributions, point, strict=True)) for point in product(*values)]

    def num_numeric(self) -> int:
        """Return the number of keys whose values are numbers in an interval or a range."""
        return sum(hasattr(distribution, "low") for distribution in self.distributions.values())


def parse(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader) -> SearchSpace:
    """Return the search space of a sweep file and of the command line, which overrides the file.

    Args:
        params: keys and values in the syntax of overrides.
        arguments: overrides of the command line.

    Raises:
        UserError: no key is swept, or the values of a swept key are not valid.
    """
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
    overrides = {override.get_key_element(): override for override in parsed}  # the last of equal keys
    swept = {key: override for key, override in overrides.items() if override.is_sweep_override()}
    fixed = [override.input_line or "" for key, override in overrides.items() if key not in swept]
    if not swept:
        raise UserError(
            "hydra.sweeper.params={}: the study has nothing to search; expected at least one override with several "
            "values, such as optimizer.lr=interval(1e-4,1e-1)"
        )
    return SearchSpace({key: _distribution(override, loader) for key, override in swept.items()}, fixed)


def _distribution(override: Override, loader: ConfigLoader) -> "BaseDistribution":
    value: Any = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _numbers(value.start, value.end, None, log=_is_log(override))
        if isinstance(value, RangeSweep):
            numbers: list[Any] = sorted(override.sweep_iterator())
            if numbers:
                return _numbers(numbers[0], numbers[-1], abs(value.step), log=_is_log(override))
        return _choices(override, loader)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{override.input_line}: {reason(error)}; expected values that Optuna can sample") from error


def _numbers(low: Any, high: Any, step: Any, log: bool) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, _rounded(high) if step else high, log=log, step=step)


def _choices(override: Override, loader: ConfigLoader) -> "BaseDistribution":
    """Return the values as Hydra would write them, without duplicates."""
    from optuna.distributions import CategoricalDistribution

    _is_log(override)
    texts = list(dict.fromkeys(override.sweep_string_iterator()))
    if not texts:
        raise UserError(f"{override.input_line}: no values; expected at least one")
    names = loader.get_group_options(override.key_or_group, ObjectType.CONFIG)
    for text in texts if names else ():
        if text not in names:
            expected = did_you_mean(text, names) or f"expected one of {', '.join(names)}"
            raise UserError(f"{override.key_or_group}={text}: no such choice; {expected}")
    return CategoricalDistribution(texts)


def _is_log(override: Override) -> bool:
    """Return whether numbers have the tag ``log``."""
    value: Any = override.value()
    is_numeric = isinstance(value, IntervalSweep | RangeSweep)
    if unknown := sorted(value.tags - ({"log"} if is_numeric else set())):
        expected = "tag(log, interval(...))" if is_numeric else "choices without a tag"
        raise UserError(f"{override.input_line}: {unknown[0]} is not a valid tag; expected {expected}")
    return "log" in value.tags


def _values(key: str, distribution: Any) -> list[Any]:
    """Return all values of a key."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log or step is None:
        raise UserError(
            f"hydra.sweeper.sampler=grid: {key} is not a finite set of values; expected "
            f"{key}=range({low},{high},STEP), or another sampler"
        )
    return [_rounded(low + number * step) for number in range(round((high - low) / step) + 1)]


def _rounded(value: Any) -> Any:
    """Return the sum of some steps without its error of rounding: 0.3 for 0.30000000000000004."""
    return float(f"{value:.15g}") if isinstance(value, float) else value
