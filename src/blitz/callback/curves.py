"""Curves of the training that belong to no metric: learning rate, gradient norm, speed and memory."""

import os
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from blitz.callback.batch_size import num_samples
from blitz.callback.drawing import writers

MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Curves(Callback):
    """Log to TensorBoard every ``trainer.log_every_n_steps`` optimizer steps, on rank 0.

    - ``train/lr``: the learning rate of the first parameter group
    - ``train/gradient_norm``: the L2 norm of all gradients before clipping, at this step; none if they are
      sharded
    - ``train/samples_per_second`` of all processes and ``train/seconds_per_step``, without validation, since the last
      point
    - ``train/memory_mib`` of this process, and ``train/device_memory_mib``, the peak on a GPU since the last point

    They are not metrics. Their values differ when a run is repeated, so ``metrics.json`` and other loggers lack them.
    Steps between two points only count their samples, which takes almost no time.
    """

    def __init__(self) -> None:
        self._samples = self._last_step = 0
        self._seconds = self._start = 0.0
        self._norm: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds += time.perf_counter() - self._start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._is_due(trainer, trainer.global_step + 1) and writers(trainer):
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            sharded = any(isinstance(gradient, torch.distributed.tensor.DTensor) for gradient in gradients)
            self._norm = None if sharded or not gradients else torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += num_samples(batch) * trainer.world_size
        step = trainer.global_step
        if step > self._last_step and self._is_due(trainer, step):
            open_writers = writers(trainer)
            values = self._values(trainer, step) if open_writers else {}
            for writer in open_writers:
                for name, value in values.items():
                    writer.add_scalar(f"train/{name}", value, step)
            self._restart(step)

    def _is_due(self, trainer: Trainer, step: int) -> bool:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    def _restart(self, step: int) -> None:
        self._samples, self._last_step = 0, step
        self._seconds, self._start = 0.0, time.perf_counter()

    def _values(self, trainer: Trainer, step: int) -> dict[str, float]:
        seconds = self._seconds + time.perf_counter() - self._start
        values = {
            "samples_per_second": self._samples / seconds,
            "seconds_per_step": seconds / (step - self._last_step),
        }
        if trainer.optimizers:
            values["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        if self._norm is not None:
            values["gradient_norm"] = float(self._norm)
        if (resident := resident_memory()) is not None:
            values["memory_mib"] = resident / MIB
        device = trainer.strategy.root_device
        if device.type == "cuda":
            values["device_memory_mib"] = torch.cuda.max_memory_allocated(device) / MIB
            torch.cuda.reset_peak_memory_stats(device)
        return values


def resident_memory() -> int | None:
    """Return the bytes of memory of this process. None if the system has no ``/proc``."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read in a step of the training
            return int(file.read().split()[1]) * PAGE
    except (OSError, ValueError):
        return None
