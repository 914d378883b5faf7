"""Build data, task and trainer from a config, and check that they fit each other."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf

from blitz.config.checks import did_you_mean
from blitz.config.instantiate import instantiate
from blitz.config.keys import leaves
from blitz.errors import UserError
from blitz.runs.checkpoint import CheckpointIO

Config = dict[str, Any]
NOT_HPARAMS = ("run_dir", "resume", "reproduce", "optimized_metric", "callback", "logger", "data.root", "data.classes",
               "task.transform", "device.process_per_device")  # fmt: skip


def resolve(cfg: DictConfig) -> Config:
    """Return the config as plain containers with every interpolation resolved, as runs and checkpoints record it.

    ``resume`` belongs to this process and not to the run, so it is recorded as None.
    """
    return cast("Config", OmegaConf.to_container(cfg, resolve=True)) | {"resume": None}


def data(config: Config) -> LightningDataModule:
    return instantiate(config["data"])


def task(config: Config) -> LightningModule:
    return instantiate(config["task"])


def trainer(config: Config) -> Trainer:
    """Build the trainer. From here on, the ranks of a run may wait for each other.

    Raises:
        UserError: this machine does not have the device, or the strategy would start processes by itself.
    """
    _check_accelerator(config["trainer"]["accelerator"])
    callbacks = [instantiate(node) for node in config["callback"].values() if node is not None]
    callbacks.sort(key=lambda callback: not getattr(callback, "runs_first", False))
    loggers = [_logger(name, node) for name, node in config["logger"].items() if node is not None]
    make_trainer = instantiate(config["trainer"] | {"_partial_": True})
    profiler = {} if config["trainer"].get("profiler") else {"profiler": _NoProfiler()}
    # Lightning would add a ModelCheckpoint of its own if there is none.
    checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks)
    built: Trainer = make_trainer(callbacks=callbacks, logger=loggers, enable_checkpointing=checkpoints, **profiler)
    built.strategy.checkpoint_io = CheckpointIO(config)
    _check_launcher(built, config["trainer"])
    if built.world_size > 1:
        built.strategy.setup_environment()
    return built


def setup_data(data: LightningDataModule, trainer: Trainer, *stages: str) -> None:
    """Download and read the data, on rank 0 first, so that the other ranks find the results on disk."""
    for first in (True, False):
        if trainer.is_global_zero == first:
            if trainer.local_rank == 0:
                data.prepare_data()
            for stage in stages:
                data.setup(stage)
        trainer.strategy.barrier()


def metadata(cfg: DictConfig, trainer: Trainer, data: Any) -> dict[str, Any]:
    """Return the part of ``environment.json`` that is known only after trainer and data are built."""
    return {
        "device": device_name(trainer),
        "threads": torch.get_num_threads(),
        "data": data.checksums(),
        "references": _references(cfg),
    }


def keep_threads(environment: Mapping[str, Any], trainer: Trainer) -> None:
    """Restore a run's number of threads if it resumes on the same device: another number changes the rounding."""
    if environment.get("device") == device_name(trainer):
        torch.set_num_threads(environment["threads"])


def device_name(trainer: Trainer) -> str:
    return f"{trainer.world_size} x {trainer.strategy.root_device.type}"


def check_metrics(config: Config, task: Any, data: Any) -> None:
    """Before the first epoch, refuse a metric that no epoch will log.

    Raises:
        UserError: with the key that names the metric and the metrics that will be logged.
    """
    settings = config["trainer"]
    if not settings["limit_test_batches"]:
        raise UserError("trainer.limit_test_batches=0: a run ends with a test; expected a number > 0")
    epochs = settings["max_epochs"]
    reached = epochs in (None, -1) or epochs >= (settings["check_val_every_n_epoch"] or 1)
    validates = "val" in data.splits and settings["limit_val_batches"] and reached
    logged = [name for stage in (("train", "val", "test") if validates else ("train", "test"))
              for name in task.metric_names(stage)]  # fmt: skip
    used = {"optimized_metric": config["optimized_metric"]}
    used |= {f"callback.{name}.monitor": (node or {}).get("monitor") for name, node in config["callback"].items()}
    for key, metric in used.items():
        if metric is not None and metric not in logged:
            brief = ", ".join(name for name in logged if name.count("/") == 1)
            raise UserError(f"{key}={metric} will not be logged; {did_you_mean(metric, logged) or f'expected {brief}'}")


def hparams(cfg: DictConfig) -> dict[str, Any]:
    """Return the hyper-parameters by dotted key, without interpolated ones; ``optimizer`` is the name of its class."""
    found = {}
    for key, value in leaves(OmegaConf.to_container(cfg)):
        name = key.removesuffix("._target_")
        if name not in (key, *NOT_HPARAMS):
            found[name] = value.rpartition(".")[2]
        elif not key.startswith(NOT_HPARAMS) and not key.endswith("_") and value is not None and "${" not in str(value):
            found[key] = value
    return found


def _references(cfg: DictConfig) -> dict[str, str]:
    """Return the interpolations of other keys, by dotted key; interpolations of the environment are left out."""
    found = leaves(OmegaConf.to_container(cfg))
    return {key: value for key, value in found if "${" in str(value) and not re.search(r"\$\{(?!len:)[\w.]+:", value)}


def _check_accelerator(accelerator: str) -> None:
    available = [name for name in ("cpu", "cuda", "mps") if AcceleratorRegistry[name]["accelerator"].is_available()]
    if accelerator not in ("auto", *available):
        device = "gpu" if accelerator == "cuda" else accelerator
        raise UserError(
            f"device={device}: this machine has no {accelerator} device that torch {torch.__version__} can use; "
            f"expected {', '.join(available)}"
        )


def _check_launcher(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Refuse a strategy that starts processes by itself: under Hydra they would run the command line again."""
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.strategy.launcher is not None and not environment.creates_processes_externally:
        raise UserError(
            f"trainer.devices={settings['devices']} with trainer.strategy={settings['strategy']}: several devices need "
            "a device config; expected device=ddp, ddp_cpu, dp or dp_cpu"
        )


def _logger(name: str, node: Mapping[str, Any]) -> Logger:
    try:
        return instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(
                f"logger={name}: its package is not installed; install it with: python -m uv pip install -e '.[{name}]'"
            ) from error
        raise


class _NoProfiler(PassThroughProfiler):
    """Measure nothing, as Lightning's default does, but faster.

    Lightning opens a profiler context around each hook, 35 in a step of the default run. Its default profiler creates a
    generator for each context, which takes 27 µs per step instead of 5.
    """

    _context = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        return self._context
