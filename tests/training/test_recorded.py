"""The recorded config of a checkpoint, on other devices and with data that has moved."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from blitz.errors import UserError
from blitz.training.recorded import recorded_config


def test_devices_and_data_root_are_those_of_the_command(untrained):
    path = untrained("trainer.precision=bf16-mixed")
    cfg = {"trust": False, "data_root": "/moved", "trainer": {"devices": 3}, "device": {"devices": 3}}
    config = recorded_config(OmegaConf.create(cfg), path, "data", "trainer")
    assert config["data"]["root"] == "/moved"
    assert (config["trainer"]["devices"], config["trainer"]["precision"]) == (3, "bf16-mixed")
    assert config["device"] == {"devices": 3}
    assert (list(config["callback"]), config["logger"]) == (["progress"], {})
    config = recorded_config(OmegaConf.create({"trust": False, "data_root": None}), path, "data")
    assert config["trainer"]["devices"] == config["device"]["devices"] == 1


def test_only_the_used_groups_are_checked(untrained):
    path = Path(untrained())
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["data"]["_target_"] = "os.system"
    torch.save(checkpoint, path)
    cfg = OmegaConf.create({"trust": False, "data_root": None})
    assert recorded_config(cfg, path, "trainer")["data"]["_target_"] == "os.system"
    with pytest.raises(UserError, match=r"config\.data\._target_=os\.system is not trusted"):
        recorded_config(cfg, path, "data", "trainer")
    recorded_config(OmegaConf.merge(cfg, {"trust": True}), path, "data", "trainer")
