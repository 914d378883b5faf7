"""A job of a sweep: its config, directory and outcome, and the composition of all jobs."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from blitz.runs.atomic import write_atomically
from blitz.runs.status import STATUS, read_status
from blitz.sweep.dashboard import mark_failed

State = Literal["done", "failed", "interrupted", "pruned", "running"]  # running: without this process
OUTPUT = "output.log"


class Outcome(NamedTuple):
    """How an attempt of a job ended.

    Args:
        value: what the task returned: for blitz-train, ``optimized_metric`` of the tested checkpoint.
        reason: one line, if the job did not finish.
    """

    state: State
    value: Any = None
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Job:
    """One job.

    Args:
        label: the swept overrides, as the terminal shows them.
        path: its run directory.
        metric: name of the metric that the job returns.
        config: a pickled DictConfig; empty if the job is done already.
        queued: whether the job waits in the queue of a cluster. Its executor changes this.
    """

    number: int
    overrides: Sequence[str]
    label: str
    path: Path
    metric: str | None
    config: bytes = field(repr=False, default=b"")
    queued: bool = False

    @property
    def output(self) -> Path:
        """The file that receives the output of the job."""
        return self.path / OUTPUT

    def finished(self) -> Outcome | None:
        """Return the outcome of a job that is done or pruned already, otherwise None."""
        status = read_status(self.path)
        if status.state == "pruned":
            return Outcome("pruned", reason=status.reason)
        if status.state != "done":
            return None
        metrics = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        return Outcome("done", metrics.get(self.metric))

    def record(self, outcome: Outcome) -> None:
        """Write ``status.json`` if the job did not finish: a killed process leaves no other trace."""
        if outcome.state not in ("done", "running"):
            self.path.mkdir(parents=True, exist_ok=True)
            status = {"state": outcome.state, "reason": outcome.reason, "seconds": round(outcome.seconds, 1)}
            write_atomically(self.path / STATUS, (json.dumps(status, indent=2) + "\n").encode())
        if outcome.state == "failed" and not (self.path / "error.txt").exists():
            mark_failed(self.path)


class Composer:
    """Compose the jobs of a sweep.

    Hydra takes 0.1 to 0.3 s for a job. Jobs that differ only in numbers and truth values share one composition here,
    into which their values are written as Hydra would write them.

    Args:
        master: the config of the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._shared: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a job. Later calls may change it: pickle it to keep it.

        Raises:
            HydraException: an override cannot be composed.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        numbers = [override for override in parsed if _sets_number(override)]
        shape = tuple(one.key_or_group if one in numbers else one.input_line or "" for one in parsed)
        if shape in self._shared:
            config = self._shared[shape]
            try:
                _write_numbers(config, parsed, numbers)
            except OmegaConfBaseException:  # an invalid value: Hydra reports it
                del self._shared[shape]
            else:
                return config
        config = self._loader.load_sweep_config(self._master, list(overrides))
        if not any(isinstance(override.value(), dict) for override in parsed):  # it could hold a key of ``numbers``
            self._shared[shape] = config
        return config


def _sets_number(override: Override) -> bool:
    """Return whether an override replaces a value by a number or a truth value. A config group's choice is neither."""
    plain = not (override.is_add() or override.is_force_add() or override.is_delete()) and override.package is None
    return plain and isinstance(override.value(), bool | int | float)


def _write_numbers(config: DictConfig, overrides: Sequence[Override], numbers: Sequence[Override]) -> None:
    for override in numbers:
        OmegaConf.update(config, override.key_or_group, override.value())
    job, task = config.hydra.job, [override for override in overrides if not override.is_hydra_override()]
    config.hydra.overrides.task = [override.input_line for override in task]
    separators = job.config.override_dirname
    job.override_dirname = separators.item_sep.join(
        sorted(
            (override.input_line or "").replace("=", separators.kv_sep)
            for override in task
            if override.key_or_group not in separators.exclude_keys
        )
    )


def find_directory(sweep_dir: Path, name: str, digest: str) -> Path:
    """Return the directory of the job with this config digest, or a new one called ``name`` and the digest."""
    found = sorted(path for path in sweep_dir.glob(f"*-{digest}") if path.is_dir())
    return found[0] if found else sweep_dir / f"{name}-{digest}"


def in_directory(config: DictConfig, number: int, path: Path) -> bytes:
    """Return the pickled config of a job that runs in ``path``."""
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
        config.hydra.sweep.dir = str(path.parent)
        config.hydra.sweep.subdir = path.name
    return pickle.dumps(config)
