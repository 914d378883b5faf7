"""Data parallelism with one process per device: each takes its part of every batch, and the gradients are averaged.

The loss of a process is the mean over its own images. The mean of these losses is the mean over the batch only if the
parts are even. Otherwise, as in an epoch's last batch, each loss is weighted by the size of its part. After any number
of steps the weights then equal those of one device with the same batches, up to rounding, for any number of processes.

Two things differ from one device by nature. BatchNorm normalizes each process's part by itself and keeps the running
statistics of rank 0 (``trainer.sync_batchnorm=true`` uses those of the batch). Dropout draws one mask per part.
"""

from typing import Any, Protocol, runtime_checkable

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, distributed
from torch.distributed.constants import default_pg_timeout

from blitz.errors import UserError
from blitz.process import ranks


@runtime_checkable
class SharedLoader(Protocol):
    """Loader that yields, on each rank, a part of every batch of a single process: ``blitz.data.loader.Loader``.

    Batches of any other loader have the same weight on every rank and are never empty, as Lightning assumes.
    """

    def weight(self, batch_idx: int) -> float:
        """Return the weight of this rank's loss in the mean over all ranks; 0 for an empty part."""

    def is_empty(self, batch: Any) -> bool:
        """Return whether this rank's part of a yielded batch is empty."""


class _UnevenParts(ParallelStrategy):
    """Weight the loss of each part of a batch, and skip parts that are empty.

    Args:
        options: those of Lightning's strategy.
    """

    def __init__(self, **options: Any) -> None:
        # torch would use the empty step's graph for all steps, or arranges the buckets only once.
        self._keeps_buckets = options.get("static_graph", False) or options.get("find_unused_parameters", False)
        self.timeout = options.setdefault("timeout", default_pg_timeout)
        # If nobody started the processes, as in a notebook, Lightning finds the environment by itself.
        super().__init__(cluster_environment=TorchElasticEnvironment() if ranks.launched() else None, **options)
        self._weight = 1.0

    def setup_environment(self) -> None:
        """Join the process group through the store of ``ranks``, which needs no free port; Lightning then keeps it."""
        if ranks.launched() and not distributed.is_initialized():
            assert self.accelerator is not None
            device = self.root_device
            self.accelerator.setup_device(device)
            distributed.init_process_group(
                self.process_group_backend or distributed.get_default_backend_for_device(device),  # type: ignore[attr-defined]
                store=distributed.PrefixStore("group", ranks.rendezvous_store()),  # type: ignore[attr-defined]
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self.timeout,
                device_id=None if device.type == "cpu" else device,
            )
        super().setup_environment()

    @property
    def _trainer(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.trainer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        loader = self._trainer.train_dataloader
        self._weight = loader.weight(batch_idx) if isinstance(loader, SharedLoader) else 1.0

    def training_step(self, *args: Any) -> STEP_OUTPUT:
        if not self._weight:
            return self.empty_step()
        output = super().training_step(*args)
        if output is None or self._weight == 1:
            return output
        if isinstance(output, Tensor):
            return output * self._weight
        return {**output, "loss": output["loss"] * self._weight}

    def validation_step(self, *args: Any) -> STEP_OUTPUT:
        return self.empty_step() if self.is_empty("val", *args) else super().validation_step(*args)

    def test_step(self, *args: Any) -> STEP_OUTPUT:
        return self.empty_step() if self.is_empty("test", *args) else super().test_step(*args)

    def predict_step(self, *args: Any) -> STEP_OUTPUT:
        return self.empty_step() if self.is_empty("predict", *args) else super().predict_step(*args)

    def is_empty(self, stage: str, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> bool:
        """Return whether this rank's part of the batch is empty. Only a ``SharedLoader`` has empty parts."""
        loaders = getattr(self._trainer, f"{stage}_dataloaders")
        loader = loaders[dataloader_idx] if isinstance(loaders, list) else loaders
        return isinstance(loader, SharedLoader) and loader.is_empty(batch)

    def empty_step(self) -> STEP_OUTPUT:
        """Take the place of a step on an empty part."""
        raise NotImplementedError


class DDP(_UnevenParts, DDPStrategy):
    """Keep the whole model on every process.

    torch's DDP broadcasts the buffers in each forward pass, where all processes wait for each other. In an evaluation,
    processes may take different numbers of steps. So validation broadcasts the buffers once, at its start.
    """

    def empty_step(self) -> STEP_OUTPUT:
        """In training, give every weight a gradient of zero, because the other ranks wait for it."""
        if not self._trainer.training:
            return None
        module: Any = self.lightning_module
        module.training_step = lambda: sum(weight.sum() for weight in module.parameters() if weight.requires_grad) * 0.0
        try:
            return DDPStrategy.training_step(self)  # through torch's DDP, which prepares the exchange of gradients
        finally:
            del module.training_step

    def on_train_start(self) -> None:
        """Take an empty step, after which torch's DDP rearranges its gradient buckets.

        DDP rearranges them once, after its first step, by the order in which the gradients were computed. The buckets
        determine in which order more than two processes sum. Without the empty step, the first step of a resumed run
        would sum in a different order than the same step of an uninterrupted run.
        """
        super().on_train_start()
        if not self._keeps_buckets:
            output: Any = self.empty_step()
            output.backward()
            assert self.model is not None
            self.model.zero_grad()

    def on_validation_start(self) -> None:
        assert self.lightning_module is not None
        for buffer in self.lightning_module.buffers():
            distributed.broadcast(buffer, 0)

    def validation_step(self, *args: Any) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        if self.is_empty("val", *args):
            return None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args)


class FSDP(_UnevenParts, FSDPStrategy):
    """Shard the model over the processes as well. GPUs only."""

    def empty_step(self) -> STEP_OUTPUT:
        raise UserError(
            f"the last batch has fewer images than the {self.world_size} processes of device=fsdp; "
            "change data.batch_size or data.eval_batch_size, or use device=ddp"
        )
