"""Lightning still has the private names that a resume within an epoch needs. An upgrade that removes one fails here."""

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from blitz.callback import private_state


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("mean", batch.float().mean(), on_step=False, on_epoch=True)
        self.log("largest", batch.float().max(), on_step=False, on_epoch=True, reduce_fx="max")
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("val", 1.0, on_step=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Look(Callback):
    """Note the state before the last batch, and add to it sums of earlier steps."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            self.state = private_state.saved(trainer)
            earlier = {"training_step.mean": {"value": torch.tensor(600.0), "size": torch.tensor(2)}}
            private_state.add_sums(trainer, earlier | {"training_step.largest": {"value": torch.tensor(50.0)}})
            private_state.restore_counters(trainer, {"seen": {0: 70}, "saved_steps": [9]})
            self.restored = private_state.saved(trainer)


def test_state(tmp_path):
    look, checkpoint = Look(), ModelCheckpoint(tmp_path, every_n_train_steps=2)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[look, checkpoint], num_sanity_val_steps=0,
        val_check_interval=2, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(range(8), 2), DataLoader(range(3)))
    assert look.state["sums"]["training_step.mean"] == {"value": 0.5 * 2 + 2.5 * 2 + 4.5 * 2, "size": 6}
    assert look.state["sums"]["training_step.largest"] == {"value": 5}
    assert (look.state["seen"], look.state["saved_steps"]) == ({0: 3}, [2])
    assert (look.restored["seen"], look.restored["saved_steps"]) == ({0: 70}, [9])
    assert trainer.callback_metrics["mean"] == (15 + 600 + 6.5 * 2) / 10
    assert trainer.callback_metrics["largest"] == 50
