"""Hydra's basic launcher, with a table at the end and an exit status that tells."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from blitz.errors import UserError


class BlitzLauncher(BasicLauncher):
    """One job after another in this process; one that fails does not stop the others.

    Raises:
        UserError: jobs failed; names them.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = super().launch(job_overrides, initial_job_idx)
        from blitz import terminal  # after the jobs: rich and torch are imported then

        overrides = [list(filter_overrides(job.overrides or ())) for job in jobs]
        folders = [Path(job.hydra_cfg.hydra.runtime.output_dir) for job in jobs if job.hydra_cfg is not None]
        terminal.show_sweep(overrides, folders)
        failed = [
            " ".join(job) for job, done in zip(overrides, jobs, strict=True) if done.status is not JobStatus.COMPLETED
        ]
        if failed:
            raise UserError(f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(failed)}")
        return jobs
