"""A Hydra launcher for sweeps. Called again, it runs only the missing and failed jobs."""

import pickle
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from blitz.config.names import digest, overrides_name, short_overrides
from blitz.errors import UserError
from blitz.runs import lock
from blitz.sweep.job import Composer, Job, Outcome, find_directory, in_directory
from blitz.sweep.processes import ProcessExecutor, places
from blitz.sweep.runner import Executor, run_jobs


class JobLauncher(Launcher):
    """Run jobs through an executor. Subclasses say which one.

    Each job has a directory in the directory of the sweep, named by its swept overrides and a digest of its composed
    config. A job that is done is not run again, and a job that was stopped resumes.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config
        self.composer = Composer(hydra_context.config_loader, config)
        self.sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()

    def executor(self, config: DictConfig, total: int) -> Executor:
        """Return an executor for ``total`` jobs with the device of ``config``."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a grid.

        Raises:
            UserError: there are no jobs, an override is wrong, or a job failed.
            SystemExit: a signal stopped the sweep.
        """
        if not job_overrides:
            raise UserError("-m: the sweep has no jobs; expected at least one value for each key")
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        shared = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        jobs: list[Job] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            jobs.append(self.job(number, overrides, [text for text in overrides if text not in shared]))
        different = {job.path: job for job in reversed(jobs)}  # equal jobs, such as those of seed=1,1, run once
        waiting = iter(job for job in jobs if different[job.path] is job)
        outcomes: dict[Path, Outcome] = {}
        self.run(
            len(different),
            lambda: next(waiting, None),
            lambda job, outcome: outcomes.update({job.path: outcome}),
            list(different),
        )
        return [_job_return(job, outcomes[job.path]) for job in jobs]

    def job(self, number: int, overrides: Sequence[str], swept: Sequence[str]) -> Job:
        """Return a job with its composed config, so that no later edit of the config reaches it."""
        config = self.composer.compose(overrides)
        path = find_directory(self.sweep_dir, overrides_name(swept), digest(config))
        job = Job(number, overrides, " ".join(short_overrides(swept)), path, config.get("optimized_metric"))
        job.config = in_directory(config, number, path)
        return job

    def run(
        self,
        total: int,
        next_job: Callable[[], Job | None],
        ended: Callable[[Job, Outcome], None],
        paths: Sequence[Path] = (),
    ) -> None:
        """Run jobs, print their results, and write them to the directory of the sweep.

        Args:
            total: number of jobs.
            next_job: return the next job, or None if there is none now. It is called whenever a place is free.
            ended: receives each job and its outcome.
            paths: directories of jobs that belong to the results even if the sweep is stopped before it reaches them.

        Raises:
            UserError: a job failed, or another process runs this sweep.
            SystemExit: a signal stopped the sweep.
        """
        from blitz.sweep.display import Display, show_results
        from blitz.sweep.results import write_results

        self.sweep_dir.mkdir(parents=True, exist_ok=True)
        ends: list[tuple[Job, Outcome]] = []

        def end(job: Job, outcome: Outcome) -> None:
            ends.append((job, outcome))
            ended(job, outcome)

        display = Display(total)
        with lock.hold(self.sweep_dir):
            first = next_job()
            if first is None:
                return
            started = iter([first])
            executor = self.executor(pickle.loads(first.config), total)
            try:
                run_jobs(executor, display, lambda: next(started, None) or next_job(), end)
            finally:
                results = write_results(
                    self.sweep_dir, list(dict.fromkeys([*paths, *(job.path for job, _ in ends)])), sys.argv
                )
                show_results(self.sweep_dir, results, ends, total, display.num_run)
        failed = [(job, outcome) for job, outcome in ends if outcome.state == "failed"]
        if failed:
            raise UserError(f"{len(failed)} of {total} jobs failed; run the same command again to retry only these")


def _job_return(job: Job, outcome: Outcome) -> JobReturn:
    """Return what Hydra expects of a job."""
    status = JobStatus.COMPLETED if outcome.state == "done" else JobStatus.FAILED
    value = outcome.value if outcome.state == "done" else UserError(outcome.reason)
    return JobReturn(overrides=job.overrides, working_dir=str(job.path), status=status, _return_value=value)


class ProcessLauncher(JobLauncher):
    """Run several jobs at a time in processes of this machine.

    Args:
        n_jobs: jobs at the same time. None: one per GPU if the jobs use GPUs, otherwise one per CPU core. Jobs that use
            several devices run one at a time.
        jobs_per_gpu: jobs that share a GPU.
        timeout: seconds after which a job is asked to save and end; it fails. None: no limit.
    """

    def __init__(self, n_jobs: int | None = None, jobs_per_gpu: int = 1, timeout: float | None = None) -> None:
        for name, value in (("n_jobs", n_jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if value is not None and not (isinstance(value, int) and value > 0):
                raise UserError(f"hydra.launcher.{name}={value}: not a valid value; expected a whole number >= 1")
        if timeout is not None and not timeout > 0:
            raise UserError(f"hydra.launcher.timeout={timeout:g}: not a valid value; expected seconds > 0, or null")
        self.n_jobs, self.jobs_per_gpu, self.timeout = n_jobs, jobs_per_gpu, timeout

    def executor(self, config: DictConfig, total: int) -> Executor:
        find_places = partial(places, config, total, self.n_jobs, self.jobs_per_gpu)
        return ProcessExecutor(self.context, self.task, find_places, self.timeout)
