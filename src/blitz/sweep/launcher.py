"""A Hydra launcher that runs the jobs of a sweep in turn, prints their results, and fails if one of them failed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from blitz.errors import RunExistsError, UserError


class SequentialLauncher(Launcher):
    """Run one job after another in this process. A job that fails does not stop the others.

    Raises:
        UserError: after the last job, with the names of those that failed.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config
        self.states: list[str] = []  # per job: done, failed, or refused because its directory holds a run

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        if not job_overrides:
            raise UserError("-m: the sweep has no jobs; expected at least one value for each key")
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = [self._run(list(overrides), initial_job_idx + n) for n, overrides in enumerate(job_overrides)]
        _show_results(jobs, self.states)
        return jobs

    def _call(self, cfg: DictConfig) -> Any:
        self.states.append("failed")
        try:
            result = self.task(cfg)
        except RunExistsError:
            self.states[-1] = "refused"
            raise
        self.states[-1] = "done"
        return result

    def _run(self, overrides: list[str], number: int) -> JobReturn:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        job = run_job(self._call, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return job


def _show_results(jobs: Sequence[JobReturn], states: Sequence[str]) -> None:
    from blitz import terminal  # it imports torch, which --help does not wait for

    names = [list(filter_overrides(job.overrides or ())) for job in jobs]
    terminal.show_sweep(names, [_run_dir(job) for job in jobs], states)
    failed = [" ".join(name) for name, job in zip(names, jobs, strict=True) if job.status is not JobStatus.COMPLETED]
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(failed)}")


def _run_dir(job: JobReturn) -> Path:
    hydra_cfg: Any = job.hydra_cfg
    return Path(hydra_cfg.hydra.runtime.output_dir)
