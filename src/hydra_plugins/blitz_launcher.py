"""Register the launcher with Hydra, which accepts plugins only from this namespace package."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from blitz.sweep.launcher import SequentialLauncher


class BlitzLauncher(SequentialLauncher):
    """The launcher under a name that Hydra's plugin scanner accepts."""


@dataclass
class BlitzLauncherConf:
    """Config of ``hydra/launcher=blitz``."""

    _target_: str = "hydra_plugins.blitz_launcher.BlitzLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="blitz", node=BlitzLauncherConf, provider="blitz")
