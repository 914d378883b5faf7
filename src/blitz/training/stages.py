"""Stages of a run. Every run trains; validation and test are optional."""

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden


def has_stage(stage: str, trainer: Trainer, task: LightningModule, data: LightningDataModule | None) -> bool:
    """Return whether ``trainer`` runs ``val`` or ``test``: there are a step and a loader, and the limit is not 0."""
    step, limit = {"val": ("validation_step", "limit_val_batches"), "test": ("test_step", "limit_test_batches")}[stage]
    loader = f"{stage}_dataloader"
    loads = is_overridden(loader, task) or (data is not None and is_overridden(loader, data))
    return loads and is_overridden(step, task) and bool(getattr(trainer, limit))
