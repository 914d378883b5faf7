"""Registration of blitz's launcher with Hydra, which finds plugins in this namespace package."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from blitz.sweep.launcher import BlitzLauncher as BlitzLauncher


@dataclass
class BlitzLauncherConf:
    """Config of ``hydra/launcher=blitz``."""

    _target_: str = "hydra_plugins.blitz_launcher.BlitzLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="blitz", node=BlitzLauncherConf, provider="blitz")
