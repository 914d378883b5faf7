"""Run a job in this process or in one process per device, with the config as the first process resolved it."""

import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from blitz.cli import launch
from blitz.errors import UserError
from blitz.process import ranks
from tests.conftest import error_of
from tests.test_configs import compose


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["device=cpu"], None),
        (["device=dp_cpu"], None),
        (["device=ddp_cpu"], 2),
        (["device=ddp_cpu", "trainer.devices=3"], 3),
        (["device=ddp_cpu", "trainer.devices=[0,2]"], 2),
        (["device=ddp_cpu", "trainer.devices='4'"], 4),
        (["device=ddp_cpu", "trainer.devices=auto"], 1),
        (["device=ddp", "trainer.accelerator=cuda"], max(1, torch.cuda.device_count())),
    ],
)
def test_number_of_local_ranks(overrides, count):
    assert launch.num_local_ranks(compose(*overrides)) == count


@pytest.mark.parametrize("devices", [0, -2, "many", 1.5, None])
def test_wrong_number_of_devices(devices):
    cfg = OmegaConf.create({"device": {"process_per_device": True}, "trainer": {"devices": devices}})
    with pytest.raises(UserError, match=r"^trainer\.devices=.*: not a valid value; expected a whole number >= 1"):
        launch.num_local_ranks(cfg)


@pytest.mark.parametrize(
    ("overrides", "started", "message"),
    [
        (["device=cpu"], 2, "device=cpu: it takes one process, but 2 were started; expected device=ddp"),
        (["device=ddp_cpu", "trainer.devices=2"], 3, "expected 2 processes, but 3 were started"),
        (["device=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=2"], 2, "expected 4 processes, but 2 were"),
        (["device=ddp_cpu", "trainer.num_nodes=2"], None, "trainer.num_nodes=2: start one process per device on every"),
        (["device=ddp_cpu", "trainer.devices=3", "data.batch_size=2"], None, "data.batch_size=2: smaller than the"),
    ],
)
def test_wrong_number_of_processes(overrides, started, message, train, monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "launched", lambda: started and ranks.Launched(0, started))
    monkeypatch.setattr(ranks, "broadcast_job", lambda job=b"": job)
    assert message in error_of(train, *overrides)
    assert not (tmp_path / "run").exists()


def test_seed_is_drawn_once_and_recorded(command, monkeypatch, tmp_path):
    seeds = []
    monkeypatch.setattr(launch, "_call", lambda task, cfg: seeds.append((cfg.seed, cfg.data.seed)))
    for name in ("a", "b"):
        command("blitz-train", "device=cpu", f"hydra.run.dir={tmp_path / name}")
    assert all(0 <= seed < 2**32 and seed == data_seed for seed, data_seed in seeds)
    assert seeds[0] != seeds[1]


def test_objects_of_a_job_are_collected_and_those_of_imports_are_not():
    program = """
import gc, weakref
from blitz.cli import launch

class Held: ...

def task(cfg):
    held = Held()
    held.itself = held
    return weakref.ref(held)

held = launch._call(task, {})
assert gc.isenabled() and gc.get_freeze_count() > 100_000
gc.collect()
assert held() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)
