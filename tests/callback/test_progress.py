import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from blitz.callback.progress import Progress


class Counting(LightningModule):
    """Its loss is the number of the batch, from 1, and 100 more in each further epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0 + batch_idx + 1 + 100 * self.current_epoch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.parametrize(("steps", "lines"), [(6, ["[1,     3] loss: 2.000", "[1,     6] loss: 5.000"]), (2, [])])
def test_a_line_each_so_many_steps_of_an_epoch(steps, lines, tmp_path, capsys):
    """The mean of these steps; what is left of an epoch does not run over into the next."""
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False, callbacks=[Progress(every_n_steps=3)],
        limit_train_batches=steps,
    )  # fmt: skip
    trainer.fit(Counting(), DataLoader(range(7)))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    second = [line.replace("[1", "[2").replace("loss: ", "loss: 10") for line in lines]
    assert printed == lines + second
