"""From a config to what it describes: the data, the task, the trainer."""

import ctypes
import difflib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning import Callback, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from blitz.atomic import CheckpointIO
from blitz.callback.last_checkpoint import LastCheckpoint
from blitz.config import leaves
from blitz.data._datamodule import ImageDataModule
from blitz.data._transforms import Transform
from blitz.loop import FitLoop
from blitz.task.classify import TOTAL_STEPS, Classify

CORES = torch.get_num_threads()  # before a run sets its own number: OMP_NUM_THREADS, or the machine's
NOT_HPARAMS = ("run_dir", "resume", "reproduce", "optimized_metric", "callback", "logger", "data.root", "data.classes")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config resolved, in plain containers: what is saved in a run's folder and in its checkpoints."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return typing.cast("dict[str, Any]", config) | {"resume": None}  # of this process, not of the run


def references(cfg: DictConfig) -> dict[str, str]:
    """The values that follow others of the config: dotted key to interpolation, without those of the world around."""
    found = leaves(OmegaConf.to_container(cfg))
    return {key: value for key, value in found if "${" in str(value) and not re.search(r"\$\{(?!len:)\w+:", value)}


def check(config: dict[str, Any]) -> None:
    """Refuse an argument that a ``_target_`` does not take, by name or by type.

    Raises:
        ValueError: names the key, and what is taken.
    """
    for where, node in _targets(config):
        target = node["_target_"]
        try:
            arguments = _arguments(get_object(target))
        except Exception as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{where}._target_: cannot import {target} ({reason})") from error
        open_ended = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
        for key, value in node.items():
            if key.startswith("_"):
                continue
            if key in arguments:
                _check_type(f"{where}.{key}", value, arguments[key].annotation)
            elif not open_ended:
                near = difflib.get_close_matches(key, arguments, 1)
                choices = (
                    f"did you mean {near[0]}?" if near else f"it takes {', '.join(k for k in arguments if k != 'self')}"
                )
                raise ValueError(f"{where}.{key}: {target} takes no {key}; {choices}")


def data(cfg: DictConfig) -> ImageDataModule:
    module: ImageDataModule = instantiate(cfg.data, _convert_="all")
    return module


def task(cfg: DictConfig) -> Classify:
    """The task around its network.

    Raises:
        ValueError: the network cannot take the data's images, or does not answer with one logit a class.
    """
    net = instantiate(cfg.model, _convert_="all")
    tune(net, cfg)
    optimizer, schedule = (instantiate(node, _convert_="all") or None for node in (cfg.optimizer, cfg.schedule))
    make = instantiate(cfg.task, _partial_=True, _convert_="all")
    module: Classify = make(
        net=net,
        optimizer=optimizer,
        schedule=schedule,
        classes=list(cfg.data.classes),
        transform=transform(cfg.data),
    )
    return module


def transform(data: Any) -> Transform:
    return Transform(data["channels"], data["image_size"], data["fit"], list(data["mean"]), list(data["std"]))


def tune(net: nn.Module, cfg: DictConfig) -> None:
    """What changes a network's speed and, but for rounding, nothing else: threads, layout, memory, compilation.

    Where ``channels_last`` is left open, on the CPU: with it the tutorial's Net is 1.1 to 1.2 times as fast, from batch
    8 to 512. Below that oneDNN takes longer to set its convolutions up than they take: torch's own, which want the
    usual layout, are 1.1 to 1.6 times as fast.

    Raises:
        ValueError: the network cannot take the data's images, or does not answer with one logit a class.
    """
    flops = _forward_flops(net, cfg) * cfg.data.batch_size
    torch.set_num_threads(cfg.threads or _threads(flops))
    on_cpu = cfg.trainer.accelerator == "cpu" or _available() == ["cpu"]
    channels_last, tiny = cfg.channels_last, False
    if channels_last is None:
        tiny = on_cpu and flops < 6e6
        channels_last = on_cpu and not tiny
    torch.backends.mkldnn.enabled = not tiny  # type: ignore[assignment]
    if channels_last:
        net.to(memory_format=torch.channels_last)
    if on_cpu:
        _keep_memory()
    if not torch.cuda.is_available():
        # By Lightning's "1" most optimizers load the driver's library in each step to ask it: 40 to 100 µs.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    if cfg.compile:
        net.compile()


def _threads(flops: float) -> int:
    """For a batch that takes ``flops`` in its forward pass: threads with less than this wait more than they work."""
    return max(1, min(CORES, round(flops / 20e6)))


def _keep_memory() -> None:
    """Keep what a step frees for the next, where glibc would return it to the system and fault every page in again.

    At a batch of 512 a step has up to 4,000 such faults, and takes 1.05 to 1.15 times as long with them.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 16 << 20)  # M_MMAP_THRESHOLD: what is larger, as a data set, is returned all the same
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: how much of the heap's end may lie idle


def _forward_flops(net: nn.Module, cfg: DictConfig) -> float:
    """Floating point operations for one image, counted as two black ones go through.

    So a misfit of network and data is told in the data's words, and before anything is trained.
    """
    channels, size, classes = cfg.data.channels, cfg.data.image_size, cfg.data.num_classes
    name = cfg.model["_target_"].rpartition(".")[2]
    training = net.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            shape = tuple(net.eval()(torch.zeros(2, channels, size, size)).shape)
    except (RuntimeError, ValueError) as error:
        first = next((layer for layer in net.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != channels:
            takes = f"{name} takes images of {first.in_channels} channels"
            raise ValueError(f"{takes}, but the data has data.channels={channels}") from error
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot take the data's {channels}x{size}x{size} images (data.image_size={size}): {reason}"
        ) from error
    net.train(training)
    if shape != (2, classes):
        raise ValueError(f"{name} answers two images with {shape}, but {classes} classes need (2, {classes})")
    return counter.get_total_flops() / 2


def trainer(cfg: DictConfig) -> Trainer:
    """The processes of a run meet here: from now on any of them may wait for the others.

    Raises:
        ValueError: the device asked for is not there, or is not one that the device config names.
    """
    _check_device(cfg.trainer.accelerator)
    callbacks: list[Callback] = [instantiate(node) for node in cfg.callback.values() if node is not None]
    loggers = [_logger(name, node) for name, node in cfg.logger.items() if node is not None]
    make = instantiate(cfg.trainer, _partial_=True, _convert_="all")
    if cfg.trainer.profiler is None:
        make = partial(make, profiler=_Unprofiled())
    keeper = next((callback for callback in callbacks if isinstance(callback, LastCheckpoint)), None)
    callbacks.sort(key=lambda callback: callback is keeper)  # the last: it saves the others' states
    built: Trainer = make(callbacks=callbacks, logger=loggers)
    built.strategy.checkpoint_io = CheckpointIO(plain(cfg))
    built.fit_loop = FitLoop(built, keeper)
    environment: Any = getattr(built.strategy, "cluster_environment", None)
    if built.strategy.launcher is not None and not environment.creates_processes_externally:
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices} with trainer.strategy={cfg.trainer.strategy}: "
            "choose how the run is spread by device=ddp, ddp_cpu, dp or dp_cpu"
        )
    if built.world_size > 1:
        built.strategy.setup_environment()
    return built


def ready(data: ImageDataModule, trainer: Trainer, *stages: str) -> None:
    """Fetch and read the data, rank 0 first: what it downloads or decodes, the others find."""
    for mine in (trainer.is_global_zero, not trainer.is_global_zero):
        if mine:
            if trainer.local_rank == 0:
                data.prepare_data()
            for stage in stages:
                data.setup(stage)
        trainer.strategy.barrier()


def facts(cfg: DictConfig, trainer: Trainer, data: ImageDataModule) -> dict[str, Any]:
    """What is known of a run only now that it is built, for its environment.json."""
    known = {"device": _where(trainer), "threads": torch.get_num_threads(), "data": data.checksums()}
    return known | {"references": references(cfg)}


def keep_threads(environment: Mapping[str, Any], trainer: Trainer) -> None:
    """Take those that a run has had, where it goes on on the same device: another number sums in another order."""
    if environment.get("device") == _where(trainer):
        torch.set_num_threads(environment["threads"])


def _where(trainer: Trainer) -> str:
    return f"{trainer.world_size} x {trainer.strategy.root_device.type}"


class _Unprofiled(PassThroughProfiler):
    """Lightning's own makes two generators and two calls of each of 42 contexts a step; these take no time."""

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


def _logger(name: str, node: DictConfig) -> Logger:
    try:
        logger: Logger = instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ValueError(
                f"logger={name} needs a package that is not installed: uv pip install -e '.[{name}]'"
            ) from error
        raise
    return logger


def check_metrics(cfg: DictConfig, task: Classify, data: ImageDataModule) -> None:
    """Refuse, before the first epoch and not after the last, a metric that will not be logged."""
    if not cfg.trainer.limit_test_batches:
        raise ValueError("trainer.limit_test_batches=0 is not valid: a run ends with a test")
    epochs = cfg.trainer.max_epochs
    validated = cfg.trainer.limit_val_batches and (epochs or 0) >= (cfg.trainer.check_val_every_n_epoch or 1)
    stages = (
        ("train", "val", "test") if "val" in data.splits and (validated or epochs in (None, -1)) else ("train", "test")
    )
    logged = [metric for stage in stages for metric in task.metrics(stage)]
    wanted = {"optimized_metric": cfg.optimized_metric}
    for name, node in cfg.callback.items():
        wanted[f"callback.{name}.monitor"] = (node or {}).get("monitor")
    for key, metric in wanted.items():
        if metric is not None and metric not in logged:
            near = difflib.get_close_matches(metric, logged, 1)
            choices = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(m for m in logged if m.count('/') == 1)}"
            )
            raise ValueError(f"{key}={metric} will not be logged; {choices}")


def hparams(cfg: DictConfig) -> dict[str, Any]:
    """What may tell two runs apart, without what is interpolated: dotted key to value, ``optimizer`` to ``SGD``."""
    found = {}
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if key.endswith("._target_"):
            found[key.removesuffix("._target_")] = value.rpartition(".")[2]
        elif not key.startswith(NOT_HPARAMS) and not key.endswith("_") and value is not None and "${" not in str(value):
            found[key] = value
    return found


def _check_device(accelerator: str) -> None:
    there = _available()
    if accelerator not in ("auto", *there):
        device = "gpu" if accelerator == "cuda" else accelerator
        raise ValueError(
            f"device={device}: this machine has no {accelerator} device that torch {torch.__version__} can use; "
            f"there is {', '.join(there)}"
        )


def _available() -> list[str]:
    return [name for name in ("cpu", "cuda", "mps") if AcceleratorRegistry[name]["accelerator"].is_available()]


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}.{index}")


def _arguments(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target, eval_str=True).parameters
    except NameError:  # an annotation of names imported for type checkers alone
        return inspect.signature(target).parameters


def _check_type(where: str, value: Any, annotation: Any) -> None:
    kinds = list(_kinds(annotation))
    if value is None or value == TOTAL_STEPS or not kinds or any(_is(value, kind) for kind in kinds):
        return
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    choices = dict.fromkeys(words[kind] if isinstance(kind, type) else str(kind) for kind in kinds)
    raise ValueError(f"{where}={value} is not valid: it must be {', '.join(choices)}")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The scalar types and literal values that an annotation allows; none where it allows more than these."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        parts = [list(_kinds(part)) for part in typing.get_args(annotation) if part is not types.NoneType]
        if all(parts):
            for part in parts:
                yield from part
    elif typing.get_origin(annotation) is Literal:
        yield from typing.get_args(annotation)
    elif annotation in (int, float, bool, str):
        yield annotation


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else type(value) is type(kind) and value == kind
