"""Build data, task and trainer from a config, and check that they fit each other."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from hydra.errors import InstantiationException
from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from blitz.config.checks import did_you_mean
from blitz.config.keys import leaves
from blitz.config.literals import plain
from blitz.config.paths import CONFIGS, choices
from blitz.errors import UserError
from blitz.process import random_state
from blitz.runs import folder
from blitz.runs.checkpoint import CheckpointIO
from blitz.runs.protocols import DescribedData, names_metrics
from blitz.training import arguments
from blitz.training.rehearsal import Rehearsal

Config = dict[str, Any]
# Keys, and groups of keys, that do not change the weights, and properties of the data, which its name stands for.
NOT_HPARAMS = (
    "run_dir", "resume", "reproduce", "optimized_metric", "direction", "threads", "channels_last", "compile",
    "callback", "logger", "device", "task.transform", "task.classes",
    "data.root", "data.classes", "data.num_classes", "data.channels", "data.fit", "data.mean", "data.std",
    "data.loader", "data.memory_limit", "data.num_workers", "data.eval_batch_size",
    "trainer._target_", "trainer.num_nodes", "trainer.log_every_n_steps", "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval", "trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.fast_dev_run",
    "trainer.detect_anomaly", "trainer.profiler", "trainer.default_root_dir", "trainer.num_sanity_val_steps",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.use_distributed_sampler",
)  # fmt: skip


def resolve(cfg: DictConfig) -> Config:
    """Return the config as plain containers with every interpolation resolved, as runs and checkpoints record it.

    ``resume`` belongs to this process and not to the run, so it is recorded as None.
    """
    return cast("Config", plain(OmegaConf.to_container(cfg, resolve=True))) | {"resume": None}


def data(config: Config) -> LightningDataModule | None:
    """Build the data module. Return None if there is none, because the task has its own loaders.

    Lightning calls ``setup`` in each stage and on each rank. A module that splits its data there at random, as with
    ``random_split``, would draw other splits each time and train on images of the validation. So ``setup`` always
    begins with the seed of the run, and leaves the random state as it was.
    """
    if not config["data"]:
        return None
    built: LightningDataModule = arguments.build(config, "data")
    if config["seed"] is not None:
        built.setup = partial(_setup, built.setup, config["seed"])  # type: ignore[method-assign]
    return built


def _setup(setup: Callable[[str], None], seed: int, stage: str) -> None:
    with random_state.preserved():
        seed_everything(seed, verbose=False)
        setup(stage)


def task(config: Config) -> LightningModule:
    return arguments.build(config, "task")


def trainer(config: Config) -> Trainer:
    """Build the trainer. From here on, the ranks of a run may wait for each other.

    Raises:
        UserError: this machine does not have the device, or the strategy would start processes by itself.
    """
    _check_accelerator(config["trainer"]["accelerator"], config["device"])
    named = {name: _build(config, "callback", name, Callback) for name, node in config["callback"].items() if node}
    for name, callback in named.items():
        _check_directory(config, name, callback)
    callbacks = sorted(named.values(), key=lambda callback: not getattr(callback, "runs_first", False))
    loggers = [_build(config, "logger", name, Logger) for name, node in config["logger"].items() if node]
    profiler = {} if config["trainer"].get("profiler") is not None else {"profiler": _NoProfiler()}
    # Lightning would add a ModelCheckpoint of its own if there is none.
    checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks)
    built: Trainer = arguments.build(
        config, "trainer", callbacks=callbacks, logger=loggers, enable_checkpointing=checkpoints, **profiler
    )
    if str(config["trainer"]["precision"]).startswith("16") and built.precision == "bf16-mixed":
        raise UserError(
            f"trainer.precision={config['trainer']['precision']}: Lightning cannot use it on the CPU; "
            "expected 32-true, bf16-mixed, bf16-true or 64-true"
        )
    if not isinstance(built.profiler, Profiler):  # type: ignore[attr-defined]
        raise UserError(
            f"trainer.profiler={config['trainer']['profiler']}: not a profiler; expected simple or advanced"
        )
    built.strategy.checkpoint_io = CheckpointIO(config, lambda: built.callback_metrics)
    _check_launcher(built, config["trainer"])
    if built.world_size > 1:
        built.callbacks.append(_SeedOfRank(config["seed"]))  # type: ignore[attr-defined]
        built.strategy.setup_environment()
    return built


def setup_data(data: LightningDataModule | None, trainer: Trainer, *stages: str) -> None:
    """Download and read the data, on rank 0 first, so that the other ranks find the results on disk."""
    if data is None:
        return
    for first in (True, False):
        if trainer.is_global_zero == first:
            if trainer.local_rank == 0:
                data.prepare_data()
            for stage in stages:
                data.setup(stage)
        trainer.strategy.barrier()


def metadata(cfg: DictConfig, trainer: Trainer, data: LightningDataModule | None) -> dict[str, Any]:
    """Return the part of ``environment.json`` that is known only after trainer and data are built."""
    return {
        "device": device_name(trainer),
        "threads": torch.get_num_threads(),
        "data": data.checksums() if isinstance(data, DescribedData) else {},
        "references": _references(cfg),
    }


def keep_threads(environment: Mapping[str, Any], trainer: Trainer) -> None:
    """Restore a run's number of threads if it resumes on the same device: another number changes the rounding."""
    if environment.get("device") == device_name(trainer):
        torch.set_num_threads(environment["threads"])


def device_name(trainer: Trainer) -> str:
    return f"{trainer.world_size} x {trainer.strategy.root_device.type}"


def check_metrics(config: Config, task: LightningModule, rehearsal: Rehearsal) -> None:
    """Refuse a metric that no epoch will log, before the first epoch.

    Raises:
        UserError: with the key that names the metric and the metrics that will be logged.
    """
    if not rehearsal.metrics:
        return
    logged: dict[str, str] = {}
    for stage in rehearsal.metrics:
        for name in _names(stage, task, rehearsal):
            logged.setdefault(name, stage)
    used = {"optimized_metric": config["optimized_metric"]}
    used |= {f"callback.{name}.monitor": (node or {}).get("monitor") for name, node in config["callback"].items()}
    for key, metric in used.items():
        if metric is not None and metric not in logged:
            raise UserError(
                f"{key}={metric} will not be logged{_advice(config, metric, list(logged), used, rehearsal)}"
            )
        if metric is not None and logged[metric] == "test" and key != "optimized_metric":
            raise UserError(
                f"{key}={metric}: only the test logs it; expected a metric of the training or the validation"
            )


def _names(stage: str, task: LightningModule, rehearsal: Rehearsal) -> list[str]:
    """Return the metric names of a stage, including those that a single batch may not have."""
    return [*rehearsal.metrics[stage], *(task.metric_names(stage) if names_metrics(task) else [])]


def _advice(
    config: Config, metric: str, logged: Sequence[str], used: Mapping[str, str | None], rehearsal: Rehearsal
) -> str:
    if "val" not in rehearsal.metrics and metric.startswith("val"):
        fraction = config["data"].get("val_fraction")
        causes = {
            "trainer.limit_val_batches": config["trainer"].get("limit_val_batches"),
            "data.val_fraction": fraction,
        }
        cause = next((key for key, value in causes.items() if value == 0), None)
        if cause is not None:
            return f": there is no validation with {cause}=0; expected a larger {cause}, or {_without_validation(used)}"
    if not logged:
        return ": the task logs no metrics; expected optimized_metric=null"
    brief = ", ".join(name for name in logged if name.count("/") <= 1)
    return f"; {did_you_mean(metric, logged) or f'expected {brief}'}"


def check_schedule(config: Config, optimizers: Sequence[Optimizer]) -> None:
    """Refuse a schedule that overrides a value of ``optimizer``, such as the momentum, so that it has no effect.

    Args:
        optimizers: the optimizers of the rehearsal, after the schedule was applied to them.

    Raises:
        UserError: with the key of the value, and what overrides it.
    """
    optimizer: Config = config.get("optimizer") or {}
    schedule: Config = config.get("schedule") or {}
    schedule = schedule.get("scheduler", schedule)
    groups = [group for one in optimizers for group in one.param_groups]
    for key, value in optimizer.items():
        used = [group[key] for group in groups if key in group]
        if key != "lr" and used and all(_plain(one) != value for one in used):
            raise UserError(
                f"optimizer.{key}={value}: it has no effect, because {schedule.get('_target_', 'the task')} sets it to "
                f"{_plain(used[0])}; expected a schedule that keeps it (of OneCycleLR: schedule.cycle_momentum=false)"
            )
    if "max_lr" in schedule and schedule["max_lr"] != optimizer.get("lr"):
        raise UserError(
            f"schedule.max_lr={schedule['max_lr']}: it replaces optimizer.lr={optimizer.get('lr')}; "
            f"expected optimizer.lr={schedule['max_lr']} alone, which schedule.max_lr takes over"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _without_validation(used: Mapping[str, str | None]) -> str:
    """Return the overrides that replace each validation metric with the training metric."""
    return " ".join(
        f"{key}={value.replace('val/', 'train/')}" for key, value in used.items() if value and "val/" in value
    )


def hparams(cfg: DictConfig) -> dict[str, Any]:
    """Return the hyper-parameters by dotted key, without interpolated ones; ``optimizer`` is the name of its class.

    TensorBoard's HPARAMS shows first those that differ between its runs, in the order of their names.
    """
    found = {}
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if (
            value is None
            or "${" in str(value)
            or any(key == name or key.startswith(f"{name}.") for name in NOT_HPARAMS)
        ):
            continue
        if key.endswith("._target_"):
            found[key.removesuffix("._target_")] = value.rpartition(".")[2]
        elif not key.endswith("_"):  # such as _partial_
            found[key] = value
    return found


def _references(cfg: DictConfig) -> dict[str, str]:
    """Return the interpolations of other keys, by dotted key; interpolations of the environment are left out."""
    found = leaves(OmegaConf.to_container(cfg))
    return {key: value for key, value in found if "${" in str(value) and not re.search(r"\$\{(?!len:)[\w.]+:", value)}


def _check_accelerator(accelerator: str, device: Config) -> None:
    available = [name for name in ("cpu", "cuda", "mps") if AcceleratorRegistry[name]["accelerator"].is_available()]
    if accelerator not in ("auto", *available):
        chosen = (
            name
            for name in choices("device")
            if yaml.safe_load((CONFIGS / f"device/{name}.yaml").read_text()) == device
        )
        name = next(chosen, None)
        setting = (
            f"device={name}" if name and device["accelerator"] == accelerator else f"trainer.accelerator={accelerator}"
        )
        raise UserError(
            f"{setting}: this machine has no {accelerator} device that torch {torch.__version__} can use; "
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


def _build(config: Config, group: str, name: str, kind: type) -> Any:
    node = config[group][name]
    if not isinstance(node, dict):
        raise UserError(f"{group}.{name}={node}: not a {group}; expected a _target_ and its arguments, or null")
    try:
        built = arguments.build(config, group, name)
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(
                f"{group}={name}: its package is not installed; "
                f"install it with: python -m uv pip install -e '.[{name}]'"
            ) from error
        raise
    if not isinstance(built, kind):
        raise UserError(f"{group}.{name}={config[group][name]}: not a {group}; expected the _target_ of one")
    return built


def _check_directory(config: Config, name: str, callback: Any) -> None:
    """Refuse a ModelCheckpoint outside of the run directory, which could not be copied, or in place of resume.ckpt."""
    directory, filename = (getattr(callback, attribute, None) for attribute in ("dirpath", "filename"))
    if directory and filename:
        path = os.path.normpath(Path(directory, filename))
        if not Path(path).is_relative_to(os.path.realpath(config["run_dir"])):
            raise UserError(
                f"callback.{name}.filename={filename}: it is saved as {path}, outside of the run directory; "
                f"expected a name within {config['run_dir']}"
            )
        if Path(path).stem in (Path(own).stem for own in folder.RESUMABLE):
            raise UserError(
                f"callback.{name}.filename={filename}: reserved for the run's own state; expected another name"
            )


class _SeedOfRank(Callback):
    """Give each rank random numbers of its own, such as those of dropout.

    Before that, all ranks draw the same ones: network and data splits must be equal. Lightning shuffles plain
    DataLoaders by ``PL_GLOBAL_SEED``, which must stay equal as well.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank:
            seed_everything(self.seed + trainer.global_rank, verbose=False)
            os.environ["PL_GLOBAL_SEED"] = str(self.seed)


class _NoProfiler(PassThroughProfiler):
    """Measure nothing, as Lightning's default does, but faster.

    Lightning opens a profiler context around each hook, 35 in a step of the default run. Its default profiler creates a
    generator for each context, which takes 27 µs per step instead of 5.
    """

    _context = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        return self._context
