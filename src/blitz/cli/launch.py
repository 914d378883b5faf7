"""Where a job runs: in this process, or in several that all run it with the config as it is resolved here."""

import atexit
import gc
import pickle
import random
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from blitz.config.schema import register
from blitz.errors import UserError
from blitz.process import ranks

Task = Callable[[DictConfig], Any]


def start(task: Task, cfg: DictConfig, explain: Callable[[BaseException], str]) -> Any:
    """What ``task(cfg)`` gives, in as many processes as the device asks for.

    Raises:
        UserError: they are not what torchrun or SLURM has started, or cannot be started here.
        RankError: one of them failed.
    """
    if "seed" in cfg and cfg.seed is None:
        cfg.seed = random.SystemRandom().randrange(2**32)
    started = ranks.launched()
    each = _each(cfg)
    if each is None:
        if started and started.of > 1:
            device = HydraConfig.get().runtime.choices["device"]
            raise UserError(
                f"{started.of} processes were started, but device={device} is one: use device=ddp or ddp_cpu"
            )
        return _call(task, cfg)
    nodes = cfg.trainer.num_nodes
    if not started and nodes > 1:
        raise UserError(f"trainer.num_nodes={nodes}: start it on every node, by torchrun or srun; see docs/devices.md")
    if started and started.of != each * nodes:
        raise UserError(
            f"{started.of} processes were started, but trainer.devices={cfg.trainer.devices} and "
            f"trainer.num_nodes={nodes} ask for {each * nodes}"
        )
    if started and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError("torchrun and srun start one run: leave -m out, or sweep on one machine without them")
    if "data" in cfg and cfg.data.batch_size < each * nodes:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} is smaller than the number of processes that share it, "
            f"{each * nodes}"
        )
    OmegaConf.to_container(cfg, resolve=True)  # what would be different in each process, as ${now:}, is known from here
    job = pickle.dumps((cfg, HydraConfig.instance().cfg))
    if started:
        ranks.share(job)
        return take_part(task, job)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return ranks.run(partial(take_part, task, job), each, folder, explain)
    finally:
        for log in folder.glob("rank*.log"):
            if not log.stat().st_size or not (folder / "config.yaml").exists():
                log.unlink()


def take_part(task: Task, job: bytes) -> Any:
    """As one process of a run: the task, with rank 0's config and without Hydra."""
    setup_globals()
    register()
    cfg, hydra = pickle.loads(job)
    HydraConfig.instance().cfg = hydra
    configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    result = _call(task, cfg)
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()  # until rank 0, where the others meet, has written everything down
        distributed.destroy_process_group()
    return result


def _call(task: Task, cfg: DictConfig) -> Any:
    """``task(cfg)``, and before it the imports of torch and Lightning.

    Looking for garbage while these define what they do takes half a second of three.
    """
    if "lightning" not in sys.modules:
        gc.disable()
        try:
            import_module("blitz.training.build")
        finally:
            gc.freeze()  # it stays to the end: later collections need not look through it either
            atexit.register(gc.unfreeze)
            gc.enable()
    return task(cfg)


def _each(cfg: DictConfig) -> int | None:
    """How many processes a machine is to run; None where the device is not one of processes."""
    if not OmegaConf.select(cfg, "device.process_per_device"):
        return None
    devices = cfg.trainer.devices
    if isinstance(devices, ListConfig):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        import torch

        return max(1, torch.cuda.device_count()) if cfg.device.accelerator == "cuda" else 1
    if not str(devices).isdecimal() or not int(devices):
        raise UserError(f"trainer.devices={devices} is not valid: it must be a whole number >= 1, a list or auto")
    return int(devices)
