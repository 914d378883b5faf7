"""Settings that change the speed of a run and, apart from rounding, nothing else."""

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

CORES = torch.get_num_threads()  # before a run changes it: OMP_NUM_THREADS, or the number of cores
FLOPS_PER_THREAD = 20e6  # a thread with less work than this in a forward pass waits more than it computes
ONEDNN_FLOPS = 6e6  # below this oneDNN spends more time setting up the convolutions than computing them


def tune(task: LightningModule, config: Mapping[str, Any], *, on_cpu: bool) -> None:
    """Set threads, memory format, oneDNN, the allocator and compilation, for the net and for this whole process.

    The net is ``task.net``, or the task itself if it has no such attribute. The work of a batch is counted by a forward
    pass of ``task.example_input_array``. Without one it is unknown, and torch's defaults stay.

    If ``channels_last`` is None it is used on the CPU: with it the tutorial's Net is 1.1 to 1.2 times as fast, from
    batch 8 to 512. Below ``ONEDNN_FLOPS`` torch's own convolutions, which want the default layout, are 1.1 to 1.6 times
    as fast as oneDNN's.

    Args:
        config: its ``threads``, ``channels_last``, ``compile`` and ``data.batch_size`` are used. None stands for a
            choice by the work in a batch.
        on_cpu: whether the net runs on the CPU.
    """
    net = getattr(task, "net", task)
    flops = _batch_flops(task, config["data"].get("batch_size"))
    torch.set_num_threads(config["threads"] or _num_threads(flops))
    use_onednn, channels_last = True, config["channels_last"]
    if channels_last is None:
        use_onednn = not on_cpu or flops is None or flops >= ONEDNN_FLOPS
        channels_last = on_cpu and flops is not None and use_onednn
    torch.backends.mkldnn.enabled = use_onednn  # type: ignore[assignment]
    if channels_last:
        net.to(memory_format=torch.channels_last)
    if on_cpu:
        _keep_freed_memory()
    if not torch.cuda.is_available():
        # Lightning sets "1". Most optimizers then load the driver's library in each step to ask it: 40 to 100 µs.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    if config["compile"]:
        net.compile()


def _num_threads(flops: float | None) -> int:
    return CORES if flops is None else max(1, min(CORES, round(flops / FLOPS_PER_THREAD)))


def _batch_flops(task: LightningModule, batch_size: int | None) -> float | None:
    """Return the floating point operations of a training batch's forward pass, or None if they are unknown."""
    example = task.example_input_array
    if batch_size is None or not isinstance(example, Tensor):
        return None
    training = task.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task.eval()(example)
    task.train(training)
    return counter.get_total_flops() / len(example) * batch_size


def _keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees, instead of returning it and faulting in every page again.

    At a batch of 512 a step has up to 4,000 such faults and takes 1.05 to 1.15 times as long.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 16 << 20)  # M_MMAP_THRESHOLD: larger blocks, such as a data set, are still returned
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: bytes that may lie unused at the end of the heap
