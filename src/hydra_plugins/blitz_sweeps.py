"""Register the launchers and sweepers with Hydra, which accepts plugins only from this namespace package."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from blitz.sweep import grid, launcher


class ProcessLauncher(launcher.ProcessLauncher):
    """The launcher under a name that Hydra's plugin scanner accepts."""


class GridSweeper(grid.GridSweeper):
    """The sweeper under a name that Hydra's plugin scanner accepts."""


@dataclass
class ProcessLauncherConf:
    """Config of ``hydra/launcher=process``."""

    _target_: str = "hydra_plugins.blitz_sweeps.ProcessLauncher"
    n_jobs: int | None = None  # jobs at the same time; null: one per GPU, or one per CPU core without a GPU
    jobs_per_gpu: int = 1
    timeout: float | None = None  # seconds after which a job is stopped; null: no limit


@dataclass
class GridSweeperConf:
    """Config of ``hydra/sweeper=grid``."""

    _target_: str = "hydra_plugins.blitz_sweeps.GridSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # swept keys of a sweep file, in the syntax of overrides


store = ConfigStore.instance()
store.store(group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="blitz")
store.store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="blitz")
