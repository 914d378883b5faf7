"""A process for each device: each takes its part of every batch, and their gradients are averaged.

A process's loss is the mean over its own images. The mean of these is that of the batch only where the parts are even;
elsewhere, as in an epoch's last batch, each loss is weighed by its part. The weights after any number of steps are then
those of one device with the same batches, up to rounding, whatever the number of processes.

What differs from one device by nature: BatchNorm normalises each process's part by itself and keeps the running
statistics of rank 0 (``trainer.sync_batchnorm=true`` takes those of the batch); dropout draws for each part.
"""

from typing import Any

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, distributed

from blitz.errors import UserError
from blitz.process import ranks


class _Parts(ParallelStrategy):
    """Steps on this process's part of a batch. It may be empty: an epoch's last batch may be smaller than the world."""

    def __init__(self, **options: Any) -> None:
        # Where nobody has made processes, as in a notebook, Lightning looks for itself.
        super().__init__(cluster_environment=TorchElasticEnvironment() if ranks.launched() else None, **options)

    def setup_environment(self) -> None:
        if ranks.launched() and not distributed.is_initialized():
            assert self.accelerator is not None
            self.accelerator.setup_device(self.root_device)
            distributed.init_process_group(
                self._get_process_group_backend(),  # type: ignore[attr-defined]
                store=distributed.PrefixStore("group", ranks.rendezvous_store()),  # type: ignore[attr-defined]
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,  # type: ignore[attr-defined]
                device_id=None if self.root_device.type == "cpu" else self.root_device,
            )
        super().setup_environment()

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        loader: Any = self.lightning_module.trainer.train_dataloader
        weight: float = loader.weight(batch_idx)
        loss = super().training_step(batch, batch_idx) if weight else self.no_images()
        assert isinstance(loss, Tensor)
        return loss * weight

    def validation_step(self, batch: Any, *rest: int) -> STEP_OUTPUT:
        return super().validation_step(batch, *rest) if len(batch[0]) else self.no_images()

    def test_step(self, batch: Any, *rest: int) -> STEP_OUTPUT:
        return super().test_step(batch, *rest) if len(batch[0]) else self.no_images()

    def predict_step(self, batch: Any, *rest: int) -> STEP_OUTPUT:
        return super().predict_step(batch, *rest) if len(batch[0]) else self.no_images()

    def no_images(self) -> STEP_OUTPUT:
        """In place of a step on nothing."""
        raise NotImplementedError


class DDP(_Parts, DDPStrategy):
    """Every process has the whole model.

    In an evaluation the processes do not wait for each other, as they do in the forward pass of torch's DDP, to send
    the buffers round: they are sent once, when it starts.
    """

    def no_images(self) -> STEP_OUTPUT:
        """In training no gradient, for every weight: the others wait for it."""
        module: Any = self.lightning_module
        assert self.model is not None
        if not module.trainer.training:
            return None
        module.no_images = lambda: sum(weight.sum() for weight in module.parameters() if weight.requires_grad) * 0.0
        return self._forward_redirection(self.model, module, "no_images")

    def on_validation_start(self) -> None:
        assert self.lightning_module is not None
        for buffer in self.lightning_module.buffers():
            distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Any, *rest: int) -> STEP_OUTPUT:
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(batch, *rest) if len(batch[0]) else None


class FSDP(_Parts, FSDPStrategy):
    """Every process has a part of the model too; GPUs only."""

    def no_images(self) -> STEP_OUTPUT:
        raise UserError(
            f"the last batch has fewer images than the {self.world_size} processes of device=fsdp: "
            "change data.batch_size or data.eval_batch_size, or use device=ddp"
        )
