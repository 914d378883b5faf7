"""Register the launchers and sweepers with Hydra, which accepts plugins only from this namespace package."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from blitz.sweep import grid, launcher, slurm, study


class ProcessLauncher(launcher.ProcessLauncher):
    """The launcher under a name that Hydra's plugin scanner accepts."""


class SlurmLauncher(slurm.SlurmLauncher):
    """The launcher under a name that Hydra's plugin scanner accepts."""


class SubmititLocalLauncher(slurm.SubmititLocalLauncher):
    """The launcher under a name that Hydra's plugin scanner accepts."""


class GridSweeper(grid.GridSweeper):
    """The sweeper under a name that Hydra's plugin scanner accepts."""


class StudySweeper(study.StudySweeper):
    """The sweeper under a name that Hydra's plugin scanner accepts."""


@dataclass
class ProcessLauncherConf:
    """Config of ``hydra/launcher=process``."""

    _target_: str = "hydra_plugins.blitz_sweeps.ProcessLauncher"
    n_jobs: int | None = None  # jobs at the same time; null: one per GPU, or one per CPU core without a GPU
    jobs_per_gpu: int = 1
    timeout: float | None = None  # seconds after which a job is stopped; null: no limit


@dataclass
class SlurmLauncherConf:
    """Config of ``hydra/launcher=slurm``. A job has one task on one node."""

    _target_: str = "hydra_plugins.blitz_sweeps.SlurmLauncher"
    n_jobs: int | None = None  # jobs that are submitted at the same time; null: all
    timeout_min: int = 240  # time limit in minutes; a job that reaches it is saved and queued again
    signal_delay_s: int = 90  # seconds before the time limit at which a job is told to save
    max_num_timeout: int = 10  # times that a job is queued again because of its time limit
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    additional_parameters: Any = None  # other options of sbatch: {mail-type: END}
    setup: list[str] | None = None  # lines of shell before the job: ["module load cuda"]


@dataclass
class SubmititLocalLauncherConf:
    """Config of ``hydra/launcher=submitit_local``."""

    _target_: str = "hydra_plugins.blitz_sweeps.SubmititLocalLauncher"
    n_jobs: int = 1  # jobs at the same time
    timeout_min: int = 240  # as for SLURM, like the next one
    signal_delay_s: int = 90
    gpus_per_node: int | None = None


@dataclass
class GridSweeperConf:
    """Config of ``hydra/sweeper=grid``."""

    _target_: str = "hydra_plugins.blitz_sweeps.GridSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # swept keys of a sweep file, in the syntax of overrides


@dataclass
class StudySweeperConf:
    """Config of ``hydra/sweeper=optuna``."""

    _target_: str = "hydra_plugins.blitz_sweeps.StudySweeper"
    n_trials: int | None = None  # trials of the study over all calls; null: 20, and all points of a grid
    sampler: Any = "tpe"  # tpe, random, grid, cmaes, or a _target_ of optuna.samplers
    seed: int = 0  # of the sampler
    objectives: Any = None  # metrics, each max or min: {val/acc: max, val/loss: min}; null: optimized_metric
    storage: str | None = None  # URL of a database; null: study.db in the directory of the sweep
    max_failures: int | None = None  # stop after more failed trials in one call; null: no limit
    params: dict[str, Any] = field(default_factory=dict)  # swept keys of a sweep file, in the syntax of overrides


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="blitz")
store.store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="blitz")
store.store(group="hydra/launcher", name="submitit_local", node=SubmititLocalLauncherConf, provider="blitz")
store.store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="blitz")
store.store(group="hydra/sweeper", name="optuna", node=StudySweeperConf, provider="blitz")
