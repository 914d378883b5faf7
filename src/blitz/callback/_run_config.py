"""The run's config, in every checkpoint and in every logger."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class RunConfig(Callback):
    """Checkpoints carry ``config`` (plain containers), so that a model is rebuilt from its checkpoint alone.

    Args:
        config: the composed config, resolved.
        hparams: what differs between runs and is worth a column, as key to plain value.
    """

    def __init__(self, config: dict[str, Any], hparams: dict[str, Any]) -> None:
        self.config = config
        self.hparams = hparams

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(self.hparams)
