"""Progress: the lines that it prints, on a terminal and without one."""

import io
import re

import pytest
import torch
from lightning import LightningModule, Trainer
from rich.console import Console
from torch.utils.data import DataLoader

from blitz.callback.progress import Progress


class Counting(LightningModule):
    """Its loss is the number of the batch, from 1, and 100 more in each further epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = self.weight * 0 + batch_idx + 1 + 100 * self.current_epoch
        self.log_dict({"train/loss": loss, "train/acc": loss / 1000}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/loss": 0.5, "val/acc": 0.25}, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(progress, path, *loaders, **options):
    options = {"max_epochs": 2, "limit_train_batches": 3} | options
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=path,
        enable_checkpointing=False, callbacks=[progress], num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(Counting(), DataLoader(range(7)), *loaders)


@pytest.mark.parametrize(("steps", "lines"), [(6, ["[1,     3] loss: 2.000", "[1,     6] loss: 5.000"]), (2, [])])
def test_a_line_every_n_steps_of_an_epoch(steps, lines, tmp_path, capsys):
    """It has the mean of these steps. The steps left at the end of an epoch do not count in the next."""
    fit(Progress(every_n_steps=3), tmp_path, limit_train_batches=steps)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    second = [line.replace("[1", "[2").replace("loss: ", "loss: 10") for line in lines]
    assert printed == lines + second


def test_table_of_epochs(tmp_path, capsys):
    fit(Progress(), tmp_path, DataLoader(range(2)))
    assert re.sub(r"\d+\.\d s", "0.0 s", capsys.readouterr().out).splitlines() == [
        "    epoch  train loss   train acc    val loss     val acc       time",
        "      1/2      2.0000      0.20 %      0.5000     25.00 %      0.0 s",
        "      2/2    102.0000     10.20 %      0.5000     25.00 %      0.0 s",
        "           trained in 0.0 s",
    ]


def test_table_without_validation_has_no_column_for_it(tmp_path, capsys):
    fit(Progress(), tmp_path, max_epochs=1)
    header, epoch, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "train", "loss", "train", "acc", "time"]
    assert epoch.split()[:2] == ["1/1", "2.0000"]


def test_compilation_is_reported_once_and_apart_from_training(tmp_path, capsys):
    fit(Progress(compiled=True), tmp_path)
    lines = [re.sub(r"\d", "0", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "           compiled in 0.0 s"
    assert sum("compiled" in line for line in lines) == 1


def test_bar_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr("blitz.callback.progress.REFRESH_SECONDS", 0)
    progress = Progress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    fit(progress, tmp_path)
    drawn = progress.console.file.getvalue()
    for epoch, step in ((1, 1), (1, 3), (2, 1), (2, 3)):
        assert re.search(rf"{epoch}/2 .*{step}/3.* samples/s", drawn), (epoch, step)
    assert progress.bar is None


@pytest.mark.parametrize(
    ("width", "shown", "hidden"), [(100, "samples/s", "…s"), (60, "samples/s", "loss"), (40, "3/3", "samples/s")]
)
def test_bar_fits_into_the_terminal(width, shown, hidden, tmp_path, monkeypatch):
    for name in ("REFRESH_SECONDS", "LOSS_SECONDS"):
        monkeypatch.setattr(f"blitz.callback.progress.{name}", 0)
    progress = Progress(metric="val/acc")
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=width)
    fit(progress, tmp_path, DataLoader(range(2)))
    bars = [line for line in drawn_lines(progress.console) if re.search(r"\d/[23] ", line) and "/2 " in line[:12]]
    assert bars
    assert all(len(line) <= width for line in bars)
    assert any(shown in line for line in bars)
    assert not any(hidden in line for line in bars)
    if width == 100:
        assert any("loss 102.0000  val acc 25.00 %" in line for line in bars), "of the last step, and of the last epoch"


def drawn_lines(console):
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))


def test_validation_and_test_have_bars(tmp_path, monkeypatch):
    monkeypatch.setattr("blitz.callback.progress.REFRESH_SECONDS", 0)
    progress = Progress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    fit(progress, tmp_path, DataLoader(range(5)))
    assert any(re.search(r"validation .*5/5", line) for line in drawn_lines(progress.console))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
                      enable_model_summary=False, default_root_dir=tmp_path, callbacks=[progress])  # fmt: skip
    trainer.validate(Counting(), DataLoader(range(4)), verbose=False)
    assert any(re.search(r"validation .*4/4", line) for line in drawn_lines(progress.console))
    assert progress.bar is None
