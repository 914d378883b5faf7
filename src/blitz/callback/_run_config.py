"""The run's config, in every checkpoint and in every logger."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams


class RunConfig(Callback):
    """Checkpoints carry ``config`` (plain containers), so that a model is rebuilt from its checkpoint alone.

    In TensorBoard a run's HPARAMS entry is written in two halves, its values when it starts and its end when it ends.
    The columns are then the union over all runs; what ``log_hyperparams`` writes fixes them to those of the first run.

    Args:
        config: the composed config, resolved.
        hparams: dotted key to plain value: what differs between runs and is worth a column.
    """

    def __init__(self, config: dict[str, Any], hparams: dict[str, Any]) -> None:
        self.config = config
        self.hparams = hparams

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _, start, _ = hparams(self.hparams, {})  # type: ignore[no-untyped-call]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.file_writer.add_summary(start)
            else:
                logger.log_hyperparams(self.hparams)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _, _, end = hparams(self.hparams, {})  # type: ignore[no-untyped-call]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.file_writer.add_summary(end)
