"""Compare runs: the keys that differ, filters, order, statistics over seeds, and paired differences."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import yaml

from blitz.config.paths import shorten
from blitz.errors import UserError
from blitz.runs.collect import Record
from blitz.runs.statistics import paired_difference, summarize

IDENTITY = ("run_dir", "name", "resume", "reproduce", "optimized_metric", "direction")  # they are never compared
# Keys that change how a run is computed, stored or shown. They are compared only if a command line sets them.
IMPLEMENTATION = (
    "callback", "logger", "device", "threads", "channels_last", "compile", "trainer.accelerator", "trainer.strategy",
    "trainer.devices", "trainer.num_nodes", "trainer.default_root_dir", "trainer.profiler", "trainer.log_every_n_steps",
    "data.root", "data.num_workers", "data.memory_limit", "data.loader",
)  # fmt: skip
WITHOUT_CLASS = ("callback", "device", "logger")  # config groups without a `_target_` of their own
ORDER = ("done", "running", "pruned", "interrupted", "failed")
MEASURED = ("samples_per_second", "seconds")
SEED = "seed"
Row = dict[str, Any]


class Table(NamedTuple):
    """Rows of raw values by column.

    Args:
        columns: names in order.
        metrics: the columns with metrics, the optimized one first.
        note: a line for the terminal.
    """

    columns: list[str]
    rows: list[Row]
    metrics: list[str]
    note: str = ""


class Filter(NamedTuple):
    """A condition ``key=value``, or ``key=value,value`` for several values of which one must hold."""

    key: str
    text: str

    def matches(self, record: Record) -> bool:
        """Compare with the value of the config, and with the text of the command line."""
        texts = re.split(r",(?![^\[]*\])", self.text)
        value, override = record.values.get(self.key), record.overrides.get(self.key)
        return any(text == override or _same(value, text) for text in texts)

    def __str__(self) -> str:
        return f"{self.key}={self.text}"


def parse_filter(text: str) -> Filter:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text}: no such directory, and not a filter; expected KEY=VALUE, such as optimizer=sgd")
    return Filter(key, value)


def parse_filters(text: str) -> list[Filter]:
    """Return the filters of ``key=value,key=value``, in which a comma may also separate several values of a key."""
    return [parse_filter(one) for one in re.split(r",(?=[^,=\[\]]+=)", text)]


def select(
    records: Sequence[Record], filters: Iterable[Filter] = (), state: str | None = None, last: int | None = None
) -> list[Record]:
    """Return the records that match all filters.

    Args:
        state: only records in this state.
        last: only this number of the matching records, those that were started last.

    Raises:
        UserError: no record has the key of a filter, or no record matches.
    """
    if last is not None and last < 1:
        raise UserError(f"--last {last}: out of range; expected a number >= 1")
    found = [record for record in records if state in (None, record.status.state)]
    for one in filters:
        check_key(one.key, records, str(one))
        found = [record for record in found if one.matches(record)]
    if not found:
        conditions = [*([f"--state {state}"] if state else []), *map(str, filters)]
        raise UserError(f"{' '.join(conditions)}: none of the {len(records)} runs matches")
    newest = {id(record) for record in sorted(found, key=attrgetter("started"))[-last:]} if last else None
    return [record for record in found if newest is None or id(record) in newest]


def check_key(key: str, records: Sequence[Record], text: str, others: Iterable[str] = ()) -> None:
    """Refuse a key that no record has.

    Args:
        text: the argument with the key, for the message.
        others: names that are accepted, too.
    """
    known = {*others, *(name for record in records for name in (*record.values, *record.overrides))}
    if records and key not in known:
        from blitz.config.checks import did_you_mean  # here, because it imports Hydra

        raise UserError(f"{text}: no run has {key}; {did_you_mean(key, known) or 'expected a key of config.yaml'}")


def differing_keys(records: Sequence[Record]) -> list[str]:
    """Return the keys whose values differ between the records, those of the command line first, the seed last.

    Left out are values that are computed from others, keys of ``IMPLEMENTATION`` that no command line sets, and values
    that differ only because their class does: ``optimizer`` instead of all arguments of the optimizers.
    """
    recorded = [record for record in records if record.config]
    overridden = list(dict.fromkeys(key for record in recorded for key in record.overrides))
    keys = list(dict.fromkeys(key for record in recorded for key in record.values))
    keys += [key for key in overridden if key in WITHOUT_CLASS]
    values = {key: [value_of(record, key) for record in recorded] for key in keys}
    differing = {key for key in keys if len(set(map(repr, values[key]))) > 1}
    found = []
    for key in keys:
        if key not in differing or key in IDENTITY:
            continue
        hidden = (
            _is_computed(key, recorded)
            or _is_below(key, IMPLEMENTATION)
            or not _differs_within_class(values, key, differing)
        )
        if key in overridden or not hidden:
            found.append(key)
    found = _without_copies(found, values, overridden)
    return sorted(found, key=lambda key: (key == SEED, key not in overridden))


def value_of(record: Record, key: str) -> Any:
    """Return the value of a key. A group without a class has the choice of the command line."""
    return record.overrides.get(key) if key in WITHOUT_CLASS else record.values.get(key)


def _is_below(key: str, parents: Iterable[str]) -> bool:
    return any(f"{key}.".startswith(f"{parent}.") for parent in parents)


def _is_computed(key: str, records: Sequence[Record]) -> bool:
    """Return whether each record that has the key, and names its references, computes its value from other keys."""
    having = [record for record in records if record.references is not None and record.values.get(key) is not None]
    return bool(having) and all(_is_below(key, record.references or ()) for record in having)


def _differs_within_class(values: dict[str, list[Any]], key: str, differing: set[str]) -> bool:
    """Return whether a value differs between records that agree on the classes above it."""
    parts = key.split(".")
    above = [".".join(parts[:n]) for n in range(1, len(parts))]
    classes = [values[parent] for parent in above if parent in differing]
    found: dict[tuple[Any, ...], set[str]] = {}
    for index, value in enumerate(values[key]):
        found.setdefault(tuple(column[index] for column in classes), set()).add(repr(value))
    return any(len(different) > 1 for different in found.values())


def _without_copies(keys: Sequence[str], values: dict[str, list[Any]], overridden: Sequence[str]) -> list[str]:
    """Drop keys that copy another key. Runs of earlier versions do not record which values are interpolated."""
    kept: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: key not in overridden):
        kept.setdefault(key if key in overridden else repr(values[key]), key)
        if key in overridden:
            kept.setdefault(repr(values[key]), key)
    return [key for key in keys if key in kept.values()]


def _same(value: Any, text: str) -> bool:
    """Return whether a config value equals the text of an override."""
    if isinstance(value, str):
        return value.casefold() == text.casefold() or value == _as_json(text)
    if isinstance(value, bool) or value is None:
        return json.dumps(value) == text.lower()
    try:
        return value == float(text)
    except ValueError:
        return False


def _as_json(text: str) -> str | None:
    """Return a list as the records hold it."""
    try:
        node = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return json.dumps(node) if isinstance(node, list) else None


# -- order --------------------------------------------------------------------------------------------------------


def order(records: Iterable[Record], sort: str | None = None) -> list[Record]:
    """Return the records by state, done ones first, and within a state by ``sort``, the best ones first.

    Records with another optimized metric or direction follow each other.

    Args:
        sort: a metric, ``seconds``, ``samples_per_second`` or a config key. None: the optimized metric.

    Raises:
        UserError: no record has it.
    """
    found = list(records)
    if sort is not None:
        check_key(sort, found, f"--sort {sort}", {*MEASURED, *(name for record in found for name in record.metrics)})
    sections = list(dict.fromkeys(section(record) for record in found))

    def key(record: Record) -> tuple[Any, ...]:
        return ORDER.index(record.status.state), sections.index(section(record)), *_rank(record, sort)

    return sorted(found, key=key)


def section(record: Record) -> tuple[str | None, bool]:
    """Return the metric and direction of a record. Only records of one section can be ranked."""
    return record.metric, record.minimized


def _rank(record: Record, sort: str | None) -> tuple[Any, ...]:
    value = sortable(record, sort)
    if value is None:
        return 2, 0
    if isinstance(value, str | bool):
        return 1, str(value)
    return 0, -value if _descending(record, sort) else value


def sortable(record: Record, sort: str | None) -> Any:
    if sort is None:
        return record.best
    if sort in MEASURED:
        return getattr(record, sort)
    return record.metrics.get(sort) if sort in record.metrics else value_of(record, sort)


def _descending(record: Record, sort: str | None) -> bool:
    """Return whether a larger value comes first. The optimized metric has its direction in every stage."""
    if sort is None or sort.rpartition("/")[2] == (record.metric or "").rpartition("/")[2]:
        return not record.minimized
    return sort == "samples_per_second" or ("/" in sort and not sort.endswith("loss"))


def best_of(records: Iterable[Record]) -> Record | None:
    """Return the best record that is done, by the optimized metric. None if there is none, or if metrics differ."""
    done = [record for record in records if record.status.state == "done" and record.best is not None]
    return order(done)[0] if done and len(set(map(section, done))) == 1 else None


# -- tables -------------------------------------------------------------------------------------------------------


def run_table(records: Sequence[Record], name: Callable[[Record], str] = lambda record: shorten(record.path)) -> Table:
    """Return a row for each record, in their order."""
    keys = differing_keys(records)
    metrics = _metrics(records)
    rows = []
    for record in records:
        worst, value = record.worst_class or (None, None)
        row: Row = {"run": name(record), "state": record.status.state, "metric": record.metric}
        row |= {key: value_of(record, key) for key in keys}
        row |= {metric: _metric(record, metric) for metric in metrics}
        row |= {"worst_class": worst, "worst_class_value": value}
        row |= {key: getattr(record, key) for key in MEASURED} | {"reason": record.status.reason or None}
        rows.append(row)
    optional = ("worst_class", "worst_class_value", *MEASURED, "reason")
    used = [column for column in optional if any(row[column] is not None for row in rows)]
    return Table(["run", "state", *keys, *metrics, *used], rows, metrics)


def _metrics(records: Iterable[Record]) -> list[str]:
    """Return the optimized metrics, and behind each the one of the test."""
    pairs = dict.fromkeys((record.metric, record.test_metric) for record in records if record.metric)
    having = [pair[:1] if all(record.test is None for record in records) else pair for pair in pairs]
    return list(dict.fromkeys(name for pair in having for name in pair if name))


def _metric(record: Record, name: str) -> float | None:
    return record.best if name == record.metric else record.metrics.get(name)


def group_table(records: Sequence[Record], over: str) -> Table:
    """Return a row for each recipe with the mean and standard deviation over its runs, in the order of the best mean.

    Only runs that are done count. The runs of a recipe differ in nothing but ``over``.

    Args:
        over: a config key, usually the seed.
    """
    check_key(over, records, f"--group {over}")
    done = [record for record in records if record.status.state == "done"]
    keys = [key for key in differing_keys(records) if key != over]
    metrics = _metrics(done)
    recipes: dict[tuple[Any, ...], list[Record]] = {}
    for record in order(done):
        recipes.setdefault((section(record), *(repr(value_of(record, key)) for key in keys)), []).append(record)
    rows = []
    for group in recipes.values():
        row: Row = {key: value_of(group[0], key) for key in keys} | {"n": len(group)}
        for metric in metrics:
            values = [value for record in group if (value := _metric(record, metric)) is not None]
            summary = summarize(values) if values else None
            row |= {f"{metric} mean": summary and summary.mean, f"{metric} std": summary and summary.std}
        rows.append((group[0], row))
    sections = list(dict.fromkeys(section(group[0]) for group in recipes.values()))

    def rank(item: tuple[Record, Row]) -> tuple[Any, ...]:
        record, row = item
        mean = row.get(f"{record.metric} mean")
        signed = math.inf if mean is None else mean if record.minimized else -mean
        return sections.index(section(record)), signed

    columns = [f"{metric} {statistic}" for metric in metrics for statistic in ("mean", "std")]
    means = [f"{metric} mean" for metric in metrics]
    return Table([*keys, "n", *columns], [row for _, row in sorted(rows, key=rank)], means)


def pair_table(records: Sequence[Record], first: Sequence[Filter], second: Sequence[Filter]) -> Table:
    """Return the means of two recipes, and of their paired differences ``first - second``, over the shared seeds.

    ``low`` and ``high`` are the limits of the 95 % confidence interval of the mean difference.

    Raises:
        UserError: a recipe has several runs with a seed, the recipes share no seed, or their metrics differ.
    """
    done = [record for record in records if record.status.state == "done" and record.best is not None]
    names = [",".join(map(str, filters)) for filters in (first, second)]
    sides = [_by_seed(select(done, filters), name) for filters, name in zip((first, second), names, strict=True)]
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    if not seeds:
        found = [f"seed={','.join(map(str, side))}" for side in sides]
        raise UserError(f"--pair {' '.join(names)}: no shared seed: {found[0]} and {found[1]}; expected a common one")
    pairs = [tuple(side[seed] for side in sides) for seed in seeds]
    metrics = {section(record) for pair in pairs for record in pair}
    if len(metrics) > 1:
        raise UserError(
            f"--pair {' '.join(names)}: they have different optimized metrics, "
            f"{' and '.join(sorted(str(metric) for metric, _ in metrics))}; expected the same one"
        )
    rows: list[Row] = []
    for metric in _metrics([record for pair in pairs for record in pair]):
        values = [[_metric(record, metric) for record in pair] for pair in pairs]
        complete = [(a, b) for a, b in values if a is not None and b is not None]
        if not complete:
            continue
        for name, column in zip(names, zip(*complete, strict=True), strict=True):
            rows.append({"metric": metric, "recipe": name, "n": len(column), "mean": summarize(column).mean})
        first_values, second_values = zip(*complete, strict=True)
        n, mean, interval = paired_difference(first_values, second_values)
        low, high = interval or (None, None)
        rows.append({"metric": metric, "recipe": "difference", "n": n, "mean": mean, "low": low, "high": high})
    others = [key for key in differing_keys([record for pair in pairs for record in pair]) if key != SEED]
    note = f"the recipes differ in {', '.join(others) or 'nothing'}"
    return Table(["metric", "recipe", "n", "mean", "low", "high"], rows, ["mean"], note)


def _by_seed(records: Sequence[Record], name: str) -> dict[Any, Record]:
    """Return the record of each seed, in the order of the seeds. Of equal runs, the newest counts."""
    if others := [key for key in differing_keys(records) if key != SEED]:
        values = list(dict.fromkeys(f"{others[0]}={value_of(record, others[0])}" for record in records))
        raise UserError(
            f"--pair {name}: its runs differ in {', '.join(others)}; "
            f"expected one recipe; add for example {name},{values[0]}"
        )
    newest = sorted(records, key=attrgetter("started"))
    found = {record.values.get(SEED): record for record in newest}
    return dict(sorted(found.items(), key=lambda item: str(item[0]).zfill(20)))


# -- plots --------------------------------------------------------------------------------------------------------


class PlotData(NamedTuple):
    """Values of the finished runs: of their keys by name, and of the optimized metric."""

    keys: dict[str, list[Any]]
    metric: str
    values: list[float]
    minimized: bool


def plot_data(records: Sequence[Record], only: str | None = None) -> PlotData:
    """Return the values to draw.

    Args:
        only: the key to draw the metric against. None: all keys that differ, without the seed if there are others.

    Raises:
        UserError: the runs have no values, different metrics, or no key in which they differ.
    """
    done = [record for record in records if record.status.state == "done" and record.best is not None]
    sections = {section(record) for record in done}
    if len(sections) != 1:
        names = sorted(f"optimized_metric={name} direction={'min' if least else 'max'}" for name, least in sections)
        raise UserError(
            f"--plot: {'no run is finished' if not done else 'the runs have ' + ' and '.join(names)}; "
            "expected finished runs with the same optimized metric, which a filter can select"
        )
    ((metric, minimized),) = sections
    if only is not None:
        check_key(only, done, f"--x {only}")
    keys = differing_keys(done)
    keys = [only] if only else [key for key in keys if key != SEED] or keys
    if not keys:
        raise UserError(f"--plot: the {len(done)} finished runs differ in no key; expected several recipes")
    values = [record.best for record in done if record.best is not None]
    return PlotData({key: [value_of(record, key) for record in done] for key in keys}, str(metric), values, minimized)
