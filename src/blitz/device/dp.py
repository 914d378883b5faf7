"""Data parallelism in one process: split each batch over replicas of the network, and join their outputs.

Only the network is replicated. Loss, metrics and logging see the whole batch, so the gradients equal those of one
device. The mean of the shards' losses would be wrong: it gives the samples of a smaller shard more weight (30 samples
on 8 devices are seven shards of 4 and one of 2).

Two things differ from one device by nature. BatchNorm normalizes each shard by itself, raises for a shard of one sample
(5 samples on 3 devices), and keeps the running statistics of the first shard. Dropout draws one mask per shard.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from blitz.errors import UserError


class VirtualDataParallel(nn.Module):
    """``nn.DataParallel`` without GPUs: run ``replicas`` copies of ``module`` one after the other, on its own device.

    As in ``nn.DataParallel``, ``torch.chunk`` splits tensors along dimension 0, so a small batch may use fewer
    replicas. Other arguments go to every replica. Scalar outputs are joined to a vector. Gradients sum into the
    module's parameters. The first replica updates the module's buffers; all other assignments in ``forward`` are lost.
    """

    def __init__(self, module: nn.Module, replicas: int) -> None:
        super().__init__()
        if replicas < 1:
            raise UserError(f"replicas={replicas}: not a valid number; expected a whole number >= 1")
        self.module = module
        self.replicas = replicas

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        shards = scatter((args, kwargs), self.replicas if args or kwargs else 1)
        replicas = [replicate(self.module, own_buffers=index == 0) for index in range(len(shards))]
        return gather([replica(*args, **kwargs) for replica, (args, kwargs) in zip(replicas, shards, strict=True)])


# torch.nn.parallel's functions of the same names refuse tensors on the CPU.


def scatter(value: Any, shards: int) -> list[Any]:
    """Split the tensors in nested tuples, lists and dicts: at most ``shards`` values, fewer if a tensor is shorter."""
    if isinstance(value, Tensor):
        return list(value.chunk(shards))
    if isinstance(value, dict) and value:
        return [type(value)(items) for items in scatter(list(value.items()), shards)]
    if isinstance(value, tuple | list) and value:
        make = getattr(value, "_make", type(value))  # of a named tuple
        return [make(parts) for parts in zip(*(scatter(item, shards) for item in value), strict=False)]
    return [value] * shards


def gather(outputs: Sequence[Any]) -> Any:
    """Join outputs of the same structure: nested tuples, lists and dicts of tensors and None."""
    first = outputs[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(outputs)) if first.dim() else torch.stack(list(outputs))
    if isinstance(first, dict):
        return type(first)((key, gather([output[key] for output in outputs])) for key in first)
    return getattr(first, "_make", type(first))(gather(parts) for parts in zip(*outputs, strict=True))


def replicate(module: nn.Module, own_buffers: bool) -> nn.Module:
    """Return a copy that shares weights with ``module`` but has no parameters itself, like torch's replicas.

    Two private names, checked with torch 2.15: layers such as ``nn.LSTM`` override the first, and the second also
    lists absent parameters, such as a bias. Without them, virtual replicas raise AttributeError.
    """
    paths = dict(module.named_modules(remove_duplicate=False))
    copies = {layer: layer._replicate_for_data_parallel() for layer in paths.values()}  # noqa: SLF001 - replicas as torch makes them
    for path, layer in paths.items():
        parent, _, child = path.rpartition(".")
        if path:
            setattr(copies[paths[parent]], child, copies[layer])
        for name, parameter in layer._parameters.items():  # noqa: SLF001 - the public methods leave out absent ones
            setattr(copies[layer], name, None if parameter is None else parameter.view_as(parameter))
        for name, buffer in layer.named_buffers(recurse=False, remove_duplicate=False):
            setattr(copies[layer], name, buffer if own_buffers else buffer.clone())
    return copies[module]


class CudaDataParallel(nn.DataParallel[nn.Module]):
    """``nn.DataParallel`` whose threads keep inference mode and the dtype of autocast.

    torch drops the former and enters autocast with its default dtype, so bf16-mixed would silently run as fp16.
    """

    def parallel_apply(self, replicas: Sequence[Any], inputs: Sequence[Any], kwargs: Any) -> list[Any]:
        device = self.src_device_obj.type
        autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def run(replica: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # inference_mode(False) enables gradients, so set_grad_enabled comes after it.
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast(*autocast):
                return replica(*args, **kwargs)

        calls: list[Any] = [partial(run, replica) for replica in replicas]
        return super().parallel_apply(calls, inputs, kwargs)


class DataParallelStrategy(ParallelStrategy):
    """Split each batch over the Trainer's devices: GPUs by ``nn.DataParallel``, CPU devices as virtual replicas.

    Args:
        module: path of the task's submodule to replicate.

    Raises:
        UserError: from the Trainer's constructor, for sync_batchnorm, several nodes or processes, or fewer than two
            devices; at the start of a run, for a compiled network or a task without this submodule.
    """

    parallel_devices: list[torch.device]

    def __init__(self, module: str = "net") -> None:
        super().__init__()
        self.module = module
        self.num_nodes = 1  # the Trainer sets it, like parallel_devices and _layer_sync
        self._net: nn.Module | None = None

    def set_world_ranks(self) -> None:
        """Check the Trainer's flags. Its constructor calls this once they are set; a single process has no ranks."""
        assert self.cluster_environment is not None
        if self.num_nodes != 1:
            raise UserError(f"trainer.num_nodes={self.num_nodes}: dp runs on one machine; expected 1, or device=ddp")
        if (processes := self.cluster_environment.world_size()) != 1:
            raise UserError(f"dp is one process for all devices, got {processes}; expected one, or device=ddp")
        if self._layer_sync is not None:  # private: the only trace of sync_batchnorm in a strategy (Lightning 2.6.6)
            raise UserError("trainer.sync_batchnorm=true: a replica of dp sees only its shard; expected device=ddp")
        if len(self.parallel_devices) < 2:
            raise UserError("dp needs at least two devices, got 1; raise trainer.devices, or use device=gpu or cpu")

    @property
    def root_device(self) -> torch.device:
        return self.parallel_devices[0]

    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.root_device)

    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        net = _replicable(trainer.lightning_module, self.module)
        if len(set(self.parallel_devices)) == 1:
            net.forward = _ParallelForward(VirtualDataParallel(net, len(self.parallel_devices)))
        else:
            net.forward = _ParallelForward(CudaDataParallel(net, self.parallel_devices))
        self._net = net

    def teardown(self) -> None:
        if self._net is not None:
            del self._net.forward
            self._net = None
        super().teardown()

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj


class _ParallelForward:
    """Replacement of a network's ``forward``, for as long as it runs in parallel.

    A wrapper in the network's place would change what tasks, callbacks and checkpoints see: the names in its
    state_dict, its attributes, its training mode, isinstance. A deep copy, as for weight averaging, runs on its own
    weights. Hooks of the network itself run for each replica, as in ``nn.DataParallel``, and for the whole batch.
    """

    def __init__(self, parallel: Any) -> None:
        self.parallel = parallel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        net = self.parallel.module
        del net.forward  # the replicas run the network's own
        try:
            return self.parallel(*args, **kwargs)
        finally:
            net.forward = self


def _replicable(task: nn.Module, name: str) -> nn.Module:
    try:
        net = task.get_submodule(name)
    except AttributeError:
        children = ", ".join(child for child, _ in task.named_children())
        raise UserError(f"module={name}: no submodule of {type(task).__name__}; expected one of {children}") from None
    # Every form of torch.compile leaves a callable on the instance, bound to the original's weights. That of
    # net.compile() has only a private name, checked with torch 2.15; without it this raises AttributeError.
    if any("forward" in vars(layer) or layer._compiled_call_impl is not None for layer in net.modules()):  # noqa: SLF001 - see above
        raise UserError(f"compile=true: dp cannot copy a compiled {name!r}; expected compile=false, or device=ddp")
    return net
