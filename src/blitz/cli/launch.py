"""Run a job in this process, or in one process per device with the config as this process resolved it."""

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


def run_job(task: Task, cfg: DictConfig, explain: Callable[[BaseException], str]) -> Any:
    """Return ``task(cfg)``, run in as many processes as the device asks for.

    Args:
        explain: describes an exception in one line; it must be picklable.

    Raises:
        UserError: torchrun or SLURM started another number of processes, or blitz cannot start that many.
        RankError: a process failed.
    """
    if "seed" in cfg and cfg.seed is None:
        cfg.seed = random.SystemRandom().randrange(2**32)
    started = ranks.launched()
    count = num_local_ranks(cfg)
    _check_number_of_processes(cfg, count, started)
    if count is None:
        return _call(task, cfg)
    # Resolve here what would differ between processes, such as ${now:}; OmegaConf caches the result.
    OmegaConf.to_container(cfg, resolve=True)
    job = pickle.dumps((cfg, HydraConfig.instance().cfg))
    if started:
        ranks.broadcast_job(job)
        return join_job(task, job)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        return ranks.run(partial(join_job, task, job), count, run_dir, explain)
    finally:
        for log in run_dir.glob("rank*.log"):
            if not log.stat().st_size or not (run_dir / "config.yaml").exists():
                log.unlink()


def join_job(task: Task, job: bytes) -> Any:
    """Run the task as one rank of a job, with rank 0's config and without Hydra's command line."""
    setup_globals()
    register()
    cfg, hydra_cfg = pickle.loads(job)
    HydraConfig.instance().cfg = hydra_cfg
    configure_log(hydra_cfg.hydra.job_logging, hydra_cfg.hydra.verbose)
    result = _call(task, cfg)
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()  # rank 0 hosts the rendezvous, and writes the results after the others are done
        distributed.destroy_process_group()
    return result


def num_local_ranks(cfg: DictConfig) -> int | None:
    """Return the number of processes on this machine, or None if a single process uses all devices."""
    if not OmegaConf.select(cfg, "device.process_per_device"):
        return None
    devices = cfg.trainer.devices
    if isinstance(devices, ListConfig):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        import torch

        return max(1, torch.cuda.device_count()) if cfg.trainer.accelerator == "cuda" else 1
    if not str(devices).isdecimal() or not int(devices):
        raise UserError(f"trainer.devices={devices}: not a valid value; expected a whole number >= 1, a list or auto")
    return int(devices)


def _check_number_of_processes(cfg: DictConfig, count: int | None, started: ranks.Launched | None) -> None:
    if count is None:
        if started and started.world_size > 1:
            device = HydraConfig.get().runtime.choices["device"]
            raise UserError(
                f"device={device}: it takes one process, but {started.world_size} were started; "
                "expected device=ddp or ddp_cpu"
            )
        return
    nodes = cfg.trainer.num_nodes
    total = count * nodes
    if not started and nodes > 1:
        raise UserError(
            f"trainer.num_nodes={nodes}: start one process per device on every node with torchrun or srun; "
            "see docs/devices.md"
        )
    if started and started.world_size != total:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} with trainer.num_nodes={nodes}: expected {total} processes, "
            f"but {started.world_size} were started"
        )
    if started and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError("-m: torchrun and srun start a single run; leave out -m, or sweep on one machine without them")
    # Data modules of blitz, which have this key, divide a batch among the processes. Others count per process.
    if "data" in cfg and "eval_batch_size" in cfg.data and cfg.data.get("batch_size", total) < total:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size}: smaller than the number of processes that share a batch; "
            f"expected at least {total}"
        )


def _call(task: Task, cfg: DictConfig) -> Any:
    """Return ``task(cfg)``, after importing torch and Lightning without garbage collection.

    Searching their many new objects for garbage takes 0.6 of 3.5 seconds.
    """
    if "lightning" not in sys.modules:
        gc.disable()
        try:
            import_module("blitz.training.build")
        finally:
            gc.freeze()  # these objects live until the end: later collections can skip them
            atexit.register(gc.unfreeze)
            gc.enable()
    return task(cfg)
