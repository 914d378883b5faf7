"""Settings that change the speed of a run and, apart from rounding, nothing else."""

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from blitz.process import ranks

CORES = torch.get_num_threads()  # before a run changes it: OMP_NUM_THREADS at the import, or the number of cores
FLOPS_PER_THREAD = 20e6  # with less work in a forward pass, a thread waits more than it computes
ONEDNN_FLOPS = 6e6  # with less work in a forward pass, oneDNN takes longer to set up convolutions than to compute them


def tune(task: LightningModule, config: Mapping[str, Any], *, on_cpu: bool) -> None:
    """Set threads, memory format, oneDNN, the allocator and compilation.

    They apply to the network and to this whole process. The network is ``task.net``, or the task itself if it has no
    such attribute. A forward pass of ``task.example_input_array`` counts the floating point operations of a batch.
    Without that attribute the number is unknown, and torch's defaults stay.

    Args:
        config: the keys ``threads``, ``channels_last``, ``compile`` and ``data.batch_size`` are used. If ``threads`` or
            ``channels_last`` is None, the number of floating point operations decides.
        on_cpu: whether the network runs on the CPU.
    """
    net = getattr(task, "net", task)
    flops = _batch_flops(task, config["data"].get("batch_size"))
    torch.set_num_threads(config["threads"] or _num_threads(flops))
    _set_memory_format(net, config["channels_last"], flops, on_cpu)
    if on_cpu:
        _keep_freed_memory()
    if not torch.cuda.is_available():
        # Lightning sets "1". Most optimizers then look for the driver's library in each step: 40 to 100 µs.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    if config["compile"]:
        net.compile()  # in place: the names of the parameters stay


def _num_threads(flops: float | None) -> int:
    available = ranks.requested_threads() or CORES  # a job of a sweep sets the variable after the import
    return available if flops is None else max(1, min(available, round(flops / FLOPS_PER_THREAD)))


def _set_memory_format(net: nn.Module, channels_last: bool | None, flops: float | None, on_cpu: bool) -> None:
    """Set the memory format of ``net``, and use oneDNN unless the batches are tiny.

    On the CPU, channels_last makes the tutorial's Net 1.1 to 1.2 times as fast, from batch 8 to 512. Below
    ``ONEDNN_FLOPS`` torch's own convolutions are 1.1 to 1.6 times as fast as those of oneDNN. They need the default
    format.
    """
    tiny = channels_last is None and on_cpu and flops is not None and flops < ONEDNN_FLOPS
    torch.backends.mkldnn.enabled = not tiny  # type: ignore[assignment]
    if channels_last is None:
        channels_last = on_cpu and flops is not None and not tiny
    if channels_last:
        net.to(memory_format=torch.channels_last)


def _batch_flops(task: LightningModule, batch_size: int | None) -> float | None:
    """Return the floating point operations in the forward pass of a training batch, or None if they are unknown."""
    example = task.example_input_array
    if batch_size is None or not isinstance(example, Tensor):
        return None
    modes = {module: module.training for module in task.modules()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task.eval()(example)
    for module, training in modes.items():
        module.training = training
    return counter.get_total_flops() / len(example) * batch_size


def _keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees. Otherwise it returns the memory and faults in each page again.

    With a batch of 512, a step has up to 4,000 such faults and takes 1.05 to 1.15 times as long.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 16 << 20)  # M_MMAP_THRESHOLD: larger blocks, such as a data set, are still returned
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: unused bytes that may stay at the end of the heap
