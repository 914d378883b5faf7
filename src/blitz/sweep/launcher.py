"""Hydra's basic launcher, with a table at the end and an exit status that tells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides


class BlitzLauncher(BasicLauncher):
    """One job after another in this process; one that fails does not stop the others.

    Raises:
        ValueError: jobs failed; names them.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = super().launch(job_overrides, initial_job_idx)
        from blitz import report  # after the jobs: rich and torch are imported then

        overrides = [list(filter_overrides(job.overrides or ())) for job in jobs]
        folders = [Path(job.hydra_cfg.hydra.runtime.output_dir) for job in jobs if job.hydra_cfg is not None]
        report.sweep(overrides, folders)
        failed = [
            " ".join(job) for job, done in zip(overrides, jobs, strict=True) if done.status is not JobStatus.COMPLETED
        ]
        if failed:
            raise ValueError(f"{len(failed)} of {len(jobs)} jobs failed: {'; '.join(failed)}")
        return jobs


@dataclass
class BlitzLauncherConf:
    _target_: str = "hydra_plugins.blitz_launcher.BlitzLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="blitz", node=BlitzLauncherConf, provider="blitz")
