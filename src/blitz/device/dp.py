"""Data parallelism in one process: each batch is split over replicas of the net, and their outputs are joined.

Only the net is replicated. Loss, metrics and logging see the whole batch, so gradients equal those of one device. The
mean of the shards' losses would not do: it gives the samples of a smaller shard (30 over 8 devices: seven of 4, one of
2) more weight.

What differs from one device by nature: BatchNorm normalises each shard by itself (and raises for a shard of one sample,
as of 5 over 3 devices) and keeps the running statistics of the first; dropout draws one mask per shard.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from blitz.errors import UserError


class VirtualDataParallel(nn.Module):
    """``nn.DataParallel`` without GPUs: ``replicas`` copies of ``module`` on its own device, one after the other.

    As there, ``torch.chunk`` splits tensors along dimension 0 (a small batch may use fewer replicas), other arguments
    go to all; scalar outputs are joined to a vector; gradients sum into the module's parameters; the first replica
    writes to the module's buffers, and whatever else a forward pass changes is lost.
    """

    def __init__(self, module: nn.Module, replicas: int) -> None:
        super().__init__()
        if replicas < 1:
            raise UserError(f"replicas must be at least 1, got {replicas}")
        self.module = module
        self.replicas = replicas

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        shards = _split((args, kwargs), self.replicas)
        replicas = [_replica(self.module, own_buffers=index == 0) for index in range(len(shards))]
        return _join([replica(*args, **kwargs) for replica, (args, kwargs) in zip(replicas, shards, strict=True)])


def _split(inputs: Any, shards: int) -> list[Any]:
    """At most ``shards`` trees like ``inputs``: fewer if its tensors have fewer rows, one if it has no leaves."""
    leaves, tree = tree_flatten(inputs)
    chunks = [leaf.chunk(shards) if isinstance(leaf, Tensor) else [leaf] * shards for leaf in leaves]
    return [tree_unflatten(shard, tree) for shard in zip(*chunks, strict=False)] or [inputs]


def _join(outputs: Sequence[Any]) -> Any:
    leaves, trees = zip(*map(tree_flatten, outputs), strict=True)
    return tree_unflatten([_join_leaf(shards) for shards in zip(*leaves, strict=True)], trees[0])


def _join_leaf(shards: Sequence[Any]) -> Tensor | None:
    if shards[0] is None:
        return None
    return torch.stack(shards) if shards[0].dim() == 0 else torch.cat(shards)  # type: ignore[arg-type]


def _replica(module: nn.Module, own_buffers: bool) -> nn.Module:
    """A copy as ``torch.nn.parallel.replicate`` makes it: its weights are views of the module's parameters."""
    copies: dict[nn.Module, nn.Module] = {
        original: original._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        for original in module.modules()
    }
    for original, copy in copies.items():
        for name, child in original._modules.items():
            copy._modules[name] = None if child is None else copies[child]
        for name, parameter in original._parameters.items():
            setattr(copy, name, None if parameter is None else parameter.view_as(parameter))
        for name, buffer in original._buffers.items():
            copy._buffers[name] = buffer if own_buffers or buffer is None else buffer.clone()
    return copies[module]


class CudaDataParallel(nn.DataParallel[nn.Module]):
    """``nn.DataParallel`` whose threads keep inference mode and autocast's dtype.

    Torch drops the one and re-enters autocast with the default dtype, so that bf16-mixed would silently run as fp16.
    """

    def parallel_apply(self, replicas: Sequence[Any], inputs: Sequence[Any], kwargs: Any) -> list[Any]:
        device = self.src_device_obj.type
        amp, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def in_this_mode(replica: nn.Module) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                # inference_mode(False) switches gradients on, so their own switch comes after it
                with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast(device, dtype, amp):
                    return replica(*args, **kwargs)

            return call

        calls: list[Any] = [in_this_mode(replica) for replica in replicas]
        return super().parallel_apply(calls, inputs, kwargs)


class DataParallelStrategy(ParallelStrategy):
    """Splits each batch over the Trainer's devices: GPUs by ``nn.DataParallel``, a CPU's "devices" as virtual replicas.

    Args:
        module: the task's submodule to replicate.
        replicas: by default one per device, of at least two. A single device takes any number of virtual ones.

    Raises:
        UserError: from the Trainer's constructor, for sync_batchnorm, more than one node or process, or a wrong number
            of devices; at the start of a run, for a compiled net or a task without such a submodule.
    """

    def __init__(self, module: str = "net", replicas: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.replicas = replicas
        self.num_nodes = 1  # the Trainer sets it, like parallel_devices and _layer_sync
        self._net: nn.Module | None = None

    def _configure_launcher(self) -> None:
        """Nothing to launch; the first call after the Trainer has set its flags, so they are checked here."""
        assert self.cluster_environment is not None
        devices, processes = len(self._devices), self.cluster_environment.world_size()
        if self.num_nodes != 1:
            raise UserError(f"dp runs on one node, got num_nodes={self.num_nodes}; use device=ddp")
        if processes != 1:
            raise UserError(f"dp is one process for all devices, got {processes}; start one, or use device=ddp")
        if self._layer_sync is not None:
            raise UserError("dp cannot do sync_batchnorm=True, a replica sees its own shard only; use device=ddp")
        if self.replicas is None and devices < 2:
            raise UserError(
                f"dp needs at least two devices, got {devices}; raise trainer.devices, or use device=gpu or cpu"
            )
        if self.replicas is not None and (self.replicas < 1 or devices not in (1, self.replicas)):
            raise UserError(
                f"dp got replicas={self.replicas} for {devices} devices; choose {devices}, or 1 or more on one"
            )

    @property
    def _devices(self) -> list[torch.device]:
        assert self.parallel_devices is not None
        return self.parallel_devices

    @property
    def root_device(self) -> torch.device:
        return self._devices[0]

    def model_to_device(self) -> None:
        assert self.model is not None
        self.model.to(self.root_device)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        net = _replicable(model, self.module)
        if len(set(self._devices)) == 1:
            _redirect(net, VirtualDataParallel(net, self.replicas or len(self._devices)))
        else:
            _redirect(net, CudaDataParallel(net, self._devices))
        self._net = net
        return model

    def teardown(self) -> None:
        if self._net is not None:
            _restore(self._net)
            self._net = None
        super().teardown()

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj


def _replicable(task: nn.Module, name: str) -> nn.Module:
    try:
        net = task.get_submodule(name)
    except AttributeError:
        choices = ", ".join(child for child, _ in task.named_children())
        raise UserError(
            f"dp found no submodule {name!r} in {type(task).__name__}; set module= to one of: {choices}"
        ) from None
    # torch.compile(net), net.compile() and net.forward = torch.compile(net.forward) leave a callable on the instance,
    # bound to the original's weights.
    if any(module._compiled_call_impl is not None or "forward" in vars(module) for module in net.modules()):
        raise UserError(f"dp cannot copy a compiled {name!r}; leave torch.compile out, or use device=ddp")
    return net


class _Redirected:
    """First base of a net's class while calls to the net go to its parallel form."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "_is_replica" in vars(self):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        return vars(self)["_parallel"](*args, **kwargs)


def _redirect(net: nn.Module, parallel: nn.Module) -> None:
    """``net(x)`` now means ``parallel(x)``.

    Changing the net's class, instead of replacing the net by its wrapper, keeps everything else the net's own for
    tasks, callbacks and checkpoints: the names in its state_dict, attributes, train and eval mode, isinstance.
    """
    vars(net)["_parallel"] = parallel  # __setattr__ would make it a submodule of the net
    original = type(net)
    net.__class__ = type(original.__name__, (_Redirected, original), {"__module__": original.__module__})


def _restore(net: nn.Module) -> None:
    del vars(net)["_parallel"]
    net.__class__ = type(net).__bases__[1]
