"""A Hydra sweeper that searches with Optuna, and finishes a study that was stopped if it is called again."""

import hashlib
import json
import random
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from blitz import terminal
from blitz.config.names import digest
from blitz.config.paths import shorten
from blitz.errors import UserError
from blitz.runs.table import metric_text
from blitz.runs.trial import INSTALL, job_overrides, open_storage
from blitz.sweep.job import Job
from blitz.sweep.launcher import JobLauncher
from blitz.sweep.search_space import Point, SearchSpace, parse
from blitz.sweep.trials import DIRECTORY, POINT, RETRY_OF, Trials

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid", "cmaes")
N_TRIALS = 20
MAX_SHOWN = 5  # best trials of a study with several objectives
STATES = {"complete": "done", "pruned": "pruned", "fail": "failed", "running": "unfinished", "waiting": "waiting"}


class StudySweeper(Sweeper):
    """Search the best values of the swept keys with Optuna.

    Args:
        n_trials: trials of the study over all calls. None: 20, and all points of a grid.
        sampler: ``tpe``, ``random``, ``grid``, ``cmaes``, or a sampler of Optuna.
        seed: of the sampler. A stopped study draws the same values as an uninterrupted one.
        objectives: metrics in metrics.json, and max or min for each. None: ``optimized_metric`` and ``direction``.
        storage: URL of a database. None: ``study.db`` in the directory of the sweep.
        max_failures: stop the study after more than this number of failed trials in one call. None: no limit.
        params: swept keys and their values in Hydra's override syntax. The command line overrides them.

    Raises:
        UserError: an argument is not valid.
    """

    def __init__(
        self,
        n_trials: int | None = None,
        sampler: Any = "tpe",
        seed: int = 0,
        objectives: Mapping[str, str] | None = None,
        storage: str | None = None,
        max_failures: int | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        if n_trials is not None and n_trials < 1:
            raise UserError(f"hydra.sweeper.n_trials={n_trials}: not a valid value; expected a whole number >= 1")
        if max_failures is not None and max_failures < 0:
            raise UserError(f"hydra.sweeper.max_failures={max_failures}: not a valid value; expected a number >= 0")
        if sampler not in SAMPLERS and not hasattr(sampler, "sample_relative"):
            expected = f"{', '.join(SAMPLERS)}, or a _target_ of optuna.samplers"
            raise UserError(f"hydra.sweeper.sampler={sampler}: no such sampler; expected one of {expected}")
        if objectives is not None and not isinstance(objectives, Mapping):
            raise UserError(
                f"hydra.sweeper.objectives={objectives}: not a valid value; expected metrics with max or min, such as "
                "{val/acc: max, val/loss: min}"
            )
        self.n_trials, self.sampler, self.seed = n_trials, sampler, seed
        self.objectives, self.storage, self.max_failures = objectives, storage, max_failures
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self._config = hydra_context, config
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(launcher, JobLauncher):
            choice = config.hydra.runtime.choices["hydra/launcher"]
            raise UserError(f"hydra/launcher={choice}: it cannot run a study; expected hydra/launcher=process or slurm")
        self.launcher: JobLauncher = launcher

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing, and print the best ones.

        Raises:
            UserError: a setting is not valid, or a trial failed.
            SystemExit: a signal stopped the study.
        """
        assert self.hydra_context is not None
        setup_globals()
        directory = self.launcher.sweep_dir
        url = self.storage or f"sqlite:///{(directory / 'study.db').as_posix()}"
        objectives = self._objectives()
        self._check_pruning(objectives)
        if not self.storage:
            directory.mkdir(parents=True, exist_ok=True)
        storage = open_storage(url)
        space = parse(self.params, arguments, self.hydra_context.config_loader)
        self._check_sampler(space, objectives)
        study = self._study(storage, space, objectives)
        to_find = job_overrides(url, study.study_name)

        def new_job(number: int, point: Point) -> Job:
            overrides = [*space.fixed, *space.overrides(point), *to_find]
            return self.launcher.job(number, overrides, space.labels(point))

        grid = space.grid() if self.sampler == "grid" else None
        random.Random(self.seed).shuffle(grid or [])  # the first trials then cover all of it
        n_trials = min(self.n_trials or len(grid), len(grid)) if grid else self.n_trials or N_TRIALS
        running = Trials(study, space, list(objectives), n_trials, new_job, self._sampler_of, grid, self.max_failures)
        try:
            self.launcher.run(running.total, running.next_job, running.ended)
        except UserError as error:
            if running.too_many_failures():
                raise UserError(
                    f"hydra.sweeper.max_failures={self.max_failures}: {running.num_failures} trials have failed; "
                    "the same command continues the study"
                ) from error
            raise
        finally:
            _show(study, space, objectives, directory, None if self.storage else directory / "study.db")

    def _study(
        self, storage: "optuna.storages.BaseStorage", space: SearchSpace, objectives: Mapping[str, str]
    ) -> "optuna.Study":
        """Create or load the study. An edit of the config, of the space or of the objectives makes another one."""
        import optuna

        content = [
            digest(self._config),
            sorted(space.fixed),
            {key: optuna.distributions.distribution_to_json(values) for key, values in space.distributions.items()},
            dict(objectives),
        ]
        name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return optuna.create_study(
            storage=storage,
            study_name=f"{self.launcher.sweep_dir.name} {name}",
            directions=["maximize" if direction == "max" else "minimize" for direction in objectives.values()],
            load_if_exists=True,
        )

    def _objectives(self) -> Mapping[str, str]:
        """Return the metrics to optimize, and max or min for each."""
        if not self.objectives:
            if self._config.optimized_metric is None:
                raise UserError(
                    "optimized_metric=null: a study needs a metric; expected one that the runs log, such as val/loss"
                )
            return {self._config.optimized_metric: self._config.direction}
        for name, direction in self.objectives.items():
            if direction not in ("max", "min"):
                raise UserError(f"hydra.sweeper.objectives.{name}={direction}: no such direction; expected max or min")
            if name.startswith("test"):
                raise UserError(
                    f"hydra.sweeper.objectives.{name}: test metrics must not be optimized; expected val/..."
                )
        return self.objectives

    def _check_pruning(self, objectives: Mapping[str, str]) -> None:
        """Refuse pruning by another metric than the objective."""
        callbacks: Any = OmegaConf.to_container(self._config.callback)
        for key, node in callbacks.items():
            if isinstance(node, dict) and str(node.get("_target_")) == "blitz.callback.prune.Prune":
                monitor = OmegaConf.select(self._config, f"callback.{key}.monitor")
                if list(objectives) != [monitor]:
                    expected = (
                        "one objective" if len(objectives) > 1 else f"callback.{key}.monitor={next(iter(objectives))}"
                    )
                    raise UserError(
                        f"callback.{key}.monitor={monitor}: trials can be pruned only by the single objective of the "
                        f"study; expected {expected}"
                    )

    def _check_sampler(self, space: SearchSpace, objectives: Mapping[str, str]) -> None:
        if self.sampler != "cmaes":
            return
        if find_spec("cmaes") is None:
            raise UserError(f"hydra.sweeper.sampler=cmaes: not installed; install it with: {INSTALL}")
        if space.num_numeric() < 2:
            raise UserError(
                f"hydra.sweeper.sampler=cmaes: it needs two intervals or ranges, and the space has "
                f"{space.num_numeric()}; expected tpe, random or grid"
            )
        if len(objectives) > 1:
            raise UserError("hydra.sweeper.sampler=cmaes: it supports only one objective; expected tpe, random or grid")

    def _sampler_of(self, number: int) -> "optuna.samplers.BaseSampler":
        """Return the sampler of a trial. Its seed depends on the number, so that a stopped study repeats no values."""
        import optuna

        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {number}".encode()).digest()[:4], "big")
        match self.sampler:
            case "tpe":
                # Parallel trials: a running one counts as a bad one, so that the next is not drawn beside it.
                return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=seed)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case sampler:
                return sampler


def _show(
    study: "optuna.Study", space: SearchSpace, objectives: Mapping[str, str], directory: Path, database: Path | None
) -> None:
    """Print the number of trials by state, the best trials, and how to see more."""
    found = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in found}
    counted = [trial for trial in found if trial.number not in retried]
    counted = [trial for trial in counted if POINT in trial.user_attrs or space.contains(trial.params)]
    states = [trial.state.name.lower() for trial in counted]
    counts = [f"{states.count(state)} {name}" for state, name in STATES.items() if state in states]
    terminal.show_lines({"study": f"{len(states)} trial{'s' * (len(states) != 1)}: {', '.join(counts)}"})
    best = sorted(study.best_trials, key=lambda trial: trial.values)  # with one objective, all have the same value
    for trial in best[: MAX_SHOWN if len(objectives) > 1 else 1]:
        values = zip(objectives, trial.values, strict=True)
        metrics = ", ".join(f"{name} {metric_text(name, value)}" for name, value in values)
        terminal.show_lines({"best trial": f"{trial.number}, {metrics}: {' '.join(space.labels(trial.params))}"})
        terminal.show_lines({"run": shorten(directory / str(trial.user_attrs.get(DIRECTORY)))})
    if database:
        terminal.show_lines({"more": f"optuna-dashboard sqlite:///{shorten(database)}"})
