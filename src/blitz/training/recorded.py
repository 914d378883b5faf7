"""The recorded config of a checkpoint, for the commands that use a trained model."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from blitz.config.trust import check_trusted
from blitz.runs import checkpoint
from blitz.training import build
from blitz.training.build import Config


def recorded_config(cfg: DictConfig, path: Path, *groups: str) -> Config:
    """Return the config of a checkpoint, on the devices and the data root of ``cfg``. Its only callback shows progress.

    Args:
        groups: groups of the recorded config that will be instantiated.

    Raises:
        UserError: the file is not a checkpoint, or one of the groups names code that is not trusted.
    """
    recorded = checkpoint.read_checkpoint(path)["config"]
    if not cfg.trust:
        check_trusted({group: recorded[group] for group in groups}, "config", path)
    own = build.resolve(OmegaConf.create({group: cfg[group] for group in ("trainer", "device") if group in cfg}))
    return recorded | {
        "device": own.get("device", recorded["device"]),
        "trainer": recorded["trainer"] | own.get("trainer", {}),
        "data": recorded["data"] | ({"root": cfg.data_root} if cfg.data_root else {}),
        "callback": {"progress": {"_target_": "blitz.callback.progress.Progress"}},
        "logger": {},
    }
