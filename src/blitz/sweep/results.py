"""Write the results of a sweep to its directory: two tables, and the best job as an experiment file."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from blitz.config.paths import CONFIGS, as_override, shorten
from blitz.errors import UserError
from blitz.runs.atomic import write_all
from blitz.runs.collect import Record, read_record
from blitz.runs.compare import best_of, order, run_table
from blitz.runs.table import as_csv, as_markdown, cell

CSV, MARKDOWN, BEST = "results.csv", "results.md", "best.yaml"
NOT_REPEATED = ("resume", "reproduce", "sweep", "name")  # they belong to the job, not to the recipe
INCLUDED = ("experiment", "debug")  # groups without a key: their files set keys of others


class Results(NamedTuple):
    """The results of a sweep.

    Args:
        records: the runs, the best first.
        best: None if no run is done, or if there is no optimized metric.
        experiment: ``best.yaml``.
    """

    records: list[Record]
    best: Record | None
    experiment: Path | None


def write_results(sweep_dir: Path, runs: Sequence[Path], command: Sequence[str] = ()) -> Results:
    """Write ``results.csv``, ``results.md`` and, if a run is done, ``best.yaml``.

    Runs that cannot be read are left out.

    Args:
        runs: directories of the jobs.
        command: the command line of the sweep.
    """
    records = order(record for path in runs if (record := _read(path)) is not None)
    table = run_table(records, name=lambda record: record.path.name)
    best = best_of(records)
    csv, markdown, experiment = (sweep_dir / name for name in (CSV, MARKDOWN, BEST))
    contents = {csv: as_csv(table), markdown: _markdown(sweep_dir, as_markdown(table), best, command)}
    if best is not None:
        contents[experiment] = experiment_file(best, len(records))
    write_all({path: text.encode() for path, text in contents.items()})
    if best is None:
        experiment.unlink(missing_ok=True)  # of an earlier run of this sweep
    return Results(records, best, experiment if best else None)


def _read(path: Path) -> Record | None:
    try:
        return read_record(path) if path.is_dir() else None
    except (UserError, OSError):  # blitz-compare reports it
        return None


def _markdown(sweep_dir: Path, table: str, best: Record | None, command: Sequence[str]) -> str:
    parts = [f"# {sweep_dir.name}\n", table]
    if command:
        parts.insert(1, f"```bash\n{shlex.join([Path(command[0]).name, *command[1:]])}\n```\n")
    if best is not None:
        parts.append(f"Best by {best.metric}: `{best.path.name}`, checkpoint `{best.checkpoint or 'none'}`\n")
    return "\n".join(parts)


def experiment_file(record: Record, num_jobs: int) -> str:
    """Return an experiment file that composes to the config of a run.

    It holds the overrides of the run: choices of groups in its defaults, and values below. An override that a file
    cannot hold, such as a deletion, is a part of the command in its head.
    """
    included: list[str | dict[str, Any]] = []
    choices: list[dict[str, Any]] = []
    values: dict[str, Any] = {}
    others: list[str] = []
    for override in OverridesParser.create().parse_overrides(record.command_line):
        key, value = override.key_or_group, override.value()
        if key in NOT_REPEATED:
            continue
        if override.is_delete() or override.package is not None:
            others.append(str(override.input_line))
        elif isinstance(value, dict) or not (CONFIGS / key).is_dir():
            _set(values, key, value)
        elif key in INCLUDED:
            included.append(f"/{key}/{value}")  # as a choice of the group, experiment=best would override it
        elif override.is_add():
            included.append({f"/{key}": value})
        else:
            choices.append({f"override /{key}": value})
    content = {"defaults": [*included, "_self_", *choices], **values}
    return (
        f"# @package _global_\n{_head(record, num_jobs, others)}{yaml.dump(content, Dumper=_Dumper, sort_keys=False)}"
    )


def _head(record: Record, num_jobs: int, others: Sequence[str]) -> str:
    metrics = {record.metric: record.best, record.test_metric: record.test}
    row: dict[str, Any] = {str(name): value for name, value in metrics.items() if value is not None}
    results = ", ".join(f"{name} {cell(row, name)}" for name in row)
    file = shlex.quote(shorten(record.path.parent / BEST))
    target = shlex.quote(shorten(CONFIGS / "experiment" / BEST))
    lines = [
        f"The best of {num_jobs} {'job' if num_jobs == 1 else 'jobs'} by {record.metric}: {results}.",
        f"Run: {record.path}",
        f"Checkpoint: {record.checkpoint or 'none'}",
        f"Run it again: cp {file} {target} && {shlex.join(['blitz-train', 'experiment=best', *others])}",
        f"Its test again: blitz-eval {as_override('run', record.path)}",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    before = values.get(last)
    values[last] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text that OmegaConf would read as a number, such as 1e3."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        plain = re.fullmatch(r"(override )?/?[^\W\d][\w./-]*", text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
