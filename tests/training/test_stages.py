"""A run has the stages for which there are a step, a loader, and a limit above 0."""

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from blitz.training.stages import has_stage
from tests.foreign import GAN, Blobs, LitAutoEncoder


class WithoutLoaders(LightningModule):
    def test_step(self, batch, batch_idx):
        raise AssertionError


@pytest.mark.parametrize(
    ("task", "data", "stages"),
    [
        (BoringModel(), BoringDataModule(), ["val", "test"]),
        (BoringModel(), None, ["val", "test"]),
        (LitAutoEncoder(), Blobs(), ["val"]),
        (GAN(), Blobs(), []),
        (WithoutLoaders(), None, []),
        (WithoutLoaders(), BoringDataModule(), ["test"]),
    ],
)
def test_step_and_loader(task, data, stages):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert [stage for stage in ("val", "test") if has_stage(stage, trainer, task, data)] == stages


def test_limit():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, limit_test_batches=0)
    assert not has_stage("test", trainer, BoringModel(), None)
