"""progress.json: its content after each epoch, and across a resume within an epoch."""

import json
import math

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from blitz.callback.last_checkpoint import LastCheckpoint
from blitz.callback.progress_file import ProgressFile

SAMPLES, BATCH, EPOCHS = 10, 4, 3  # batches of 4, 4 and 2
SCORES = {"val/score": (0.5, 0.9, 0.7), "train/score": (3.0, 1.0, 2.0)}


class Scored(LightningModule):
    """Its scores are those of ``SCORES``, by epoch."""

    def __init__(self, stop_after=math.inf):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_after = stop_after

    def training_step(self, batch, batch_idx):
        self.log("train/score", SCORES["train/score"][self.current_epoch], on_step=False, on_epoch=True)
        if self.global_step == self.stop_after:
            raise RuntimeError("killed")
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("val/score", SCORES["val/score"][self.current_epoch], batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Recorded(ProgressFile):
    """Keep every content of the file."""

    def _write(self, trainer):
        super()._write(trainer)
        self.contents = [*getattr(self, "contents", []), json.loads(self.path.read_text())]


def fit(directory, metric, direction="max", stop_after=math.inf, resume_from=None):
    progress = Recorded(str(directory), metric, direction)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=EPOCHS,
        enable_checkpointing=False, default_root_dir=directory,
        callbacks=[LastCheckpoint(every_n_steps=1, time_share=None), progress],
    )  # fmt: skip
    loaders = DataLoader(range(SAMPLES), batch_size=BATCH), DataLoader(range(3))
    trainer.fit(Scored(stop_after), *loaders, ckpt_path=resume_from)
    return progress.contents


@pytest.mark.parametrize(
    ("metric", "direction", "last", "best"),
    [
        ("val/score", "max", [0.5, 0.9, 0.7], [0.5, 0.9, 0.9]),
        ("val/score", "min", [0.5, 0.9, 0.7], [0.5, 0.5, 0.5]),
        ("train/score", "min", [3, 1, 2], [3, 1, 1]),
        (None, "max", [None] * 3, [None] * 3),
    ],
)
def test_content_after_each_epoch(metric, direction, last, best, tmp_path):
    contents = fit(tmp_path, metric, direction)
    assert (contents[0]["epoch"], contents[0]["samples"], contents[0]["last"]) == (0, None, None)
    ends = [next(content for content in contents if content["epoch"] == epoch) for epoch in (1, 2, 3)]
    assert [content["last"] for content in ends] == pytest.approx(last)
    assert [content["best"] for content in ends] == pytest.approx(best)
    assert [content["samples"] for content in ends] == [SAMPLES, 2 * SAMPLES, 3 * SAMPLES]
    end = contents[-1]
    assert (end["metric"], end["max_epochs"]) == (metric, EPOCHS)
    assert end["samples_per_second"] > end["samples"] / end["seconds"] > 0, "validations do not count"
    seconds = [content["seconds"] for content in contents]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("metric", SCORES)
@pytest.mark.parametrize("stop_after", [3, 4, 5, 6])
def test_resumed_run_counts_from_the_checkpoint(metric, stop_after, tmp_path):
    """The best value, 0.9 or 3, is that of an epoch before the resume or of the epoch that it continues."""
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, metric, stop_after=stop_after)
    stopped = json.loads((tmp_path / "progress.json").read_text())
    assert stopped["epoch"] == stop_after // 3
    contents = fit(tmp_path, metric, resume_from=tmp_path / "checkpoints" / "resume.ckpt")
    end = contents[-1]
    assert (end["epoch"], end["samples"]) == (EPOCHS, EPOCHS * SAMPLES)
    assert (end["last"], end["best"]) == pytest.approx((SCORES[metric][-1], max(SCORES[metric])))


def test_time_before_a_resume_counts(tmp_path):
    fit(tmp_path, None)
    content = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(content | {"seconds": 1000.0, "samples_per_second": 7.0}))
    (end,) = fit(tmp_path, None, resume_from=tmp_path / "checkpoints" / "resume.ckpt")
    assert (end["epoch"], end["samples"]) == (EPOCHS, EPOCHS * SAMPLES)
    assert (end["seconds"], end["samples_per_second"]) == (1000, 7), "there was nothing left to train"


def test_state_holds_no_time(tmp_path):
    """The checkpoint of a resumed run equals that of an uninterrupted one, bit for bit."""
    assert ProgressFile(str(tmp_path)).state_dict().keys() == {"last", "best", "samples"}


def test_undefined_metric_is_valid_json(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, "val/score", (0.5, math.nan, math.inf))
    contents = fit(tmp_path, "val/score")
    assert {(content["epoch"], content["last"]) for content in contents[-2:]} == {(2, None), (3, None)}
    assert contents[-1]["best"] == 0.5


def test_file_that_cannot_be_written_fails_no_run(tmp_path):
    progress = ProgressFile(str(tmp_path / "absent"))
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, default_root_dir=tmp_path, callbacks=[progress],
    )  # fmt: skip
    trainer.fit(Scored(), DataLoader(range(2)))
    assert progress.samples == 2
    assert list(tmp_path.iterdir()) == []
