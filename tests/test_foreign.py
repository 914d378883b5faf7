"""Modules and data modules that this project did not write run from the config alone, and resume exactly."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

from blitz import runs
from blitz.process.signals import STOPPED
from blitz.runs.folder import Run
from tests import foreign, processes

DEMOS = "lightning.pytorch.demos.boring_classes"
WITHOUT_PARTS = ("~model", "~optimizer", "~schedule", "~task", "~data")
BORING_DATA = f"+data._target_={DEMOS}.BoringDataModule"
BLOBS = "+data._target_=tests.foreign.Blobs"
MODULES = {
    "boring": (f"+task._target_={DEMOS}.BoringModel", BORING_DATA, "optimized_metric=null"),
    "manual": (f"+task._target_={DEMOS}.ManualOptimBoringModel", "optimized_metric=null"),
    "autoencoder": (
        "+task._target_=tests.foreign.LitAutoEncoder", BLOBS, "optimized_metric=val_loss", "direction=min",
    ),
    "gan": ("+task._target_=tests.foreign.GAN", BLOBS, "optimized_metric=d_loss", "direction=min"),
}  # fmt: skip
SETTINGS = (*WITHOUT_PARTS, "seed=3", "trainer.max_epochs=3", "trainer.log_every_n_steps=2", "logger=csv")


class Die(Callback):
    """End the first attempt of a run by a signal to this process, after a batch, from 1, or in the second epoch."""

    def __init__(self, by: str, batch: int | None = None) -> None:
        self.number = signal.Signals[by]
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        attempt = Path(trainer.default_root_dir) / "died"
        batch = self.batch or int(trainer.num_training_batches) + 3
        if trainer.fit_loop.total_batch_idx + 1 >= batch and not attempt.exists():
            trainer.strategy.barrier()
            attempt.touch()
            os.kill(os.getpid(), self.number)


class SameSplits(Callback):
    """Check that all ranks validate the same samples: the data module draws them in ``setup``."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        drawn = [None] * trainer.world_size
        distributed.all_gather_object(drawn, list(trainer.datamodule.val.indices))  # type: ignore[attr-defined]
        assert drawn[0] == drawn[1]
        assert torch.initial_seed() == 3 + trainer.global_rank, "dropout differs between the ranks"


def outcome(run: Path) -> tuple[Any, ...]:
    checkpoint = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)
    states = [value.tolist() for value in checkpoint["state_dict"].values()]
    logged = run / "metrics.csv"  # absent if the module logs nothing
    curves = logged.read_text() if logged.exists() else None
    return states, Run(run).metrics, curves, checkpoint["global_step"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could handle")
@pytest.mark.parametrize("name", MODULES)
def test_stopped_and_resumed(name, train, command, tmp_path, capsys):
    whole = train(*SETTINGS, *MODULES[name], into="whole")
    with pytest.raises(SystemExit) as stopped:
        train(*SETTINGS, *MODULES[name], "+callback.die={_target_: tests.test_foreign.Die, by: SIGTERM}", into="run")
    assert stopped.value.code == STOPPED
    command("blitz-train", f"resume={tmp_path / 'run'}")
    assert outcome(tmp_path / "run") == outcome(whole)
    assert f"model          {MODULES[name][0].rpartition('.')[2]}, " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("name", MODULES)
def test_two_processes_killed_and_resumed(name, tmp_path):
    often = ("callback.last.every_n_steps=1", "callback.last.time_share=null")
    same = [f"+callback.same._target_={__name__}.SameSplits"] if BLOBS in MODULES[name] else []
    unused = ["+device.strategy.find_unused_parameters=true"] if name == "gan" else []
    settings = (*SETTINGS, *MODULES[name], *often, *unused, *same, "device=ddp_cpu", "trainer.max_epochs=2")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert finish(*settings, f"hydra.run.dir={whole}") == 0
    die = "+callback.die={_target_: tests.test_foreign.Die, by: SIGKILL}"
    assert finish(*settings, die, f"hydra.run.dir={run}") != 0
    assert Run(run).metrics is None
    assert finish(f"resume={run}") == 0
    assert outcome(run) == outcome(whole)


def finish(*overrides: str) -> int:
    """Run blitz-train to its end in processes of their own. Return the exit status."""
    ended = processes.run(processes.TRAIN_WITH_FORKED_RANKS, *overrides)
    print(ended.stderr)
    return ended.returncode


def test_the_run_ends_with_the_last_stage_that_the_task_has(train, command, tmp_path, capsys):
    run = train(*SETTINGS, *MODULES["autoencoder"], "trainer.max_epochs=1")
    out = capsys.readouterr().out
    metrics = Run(run).metrics
    assert metrics.keys() == {"train_loss", "train_loss_step", "train_loss_epoch", "val_loss"}
    assert f"best.ckpt, val_loss {metrics['val_loss']:.4g}; there is no test" in out
    command("blitz-eval", f"run={run}", "stage=val", "device=cpu", "trust=true", f"hydra.run.dir={tmp_path / 'eval'}")
    assert Run(tmp_path / "eval").metrics == {"val_loss": metrics["val_loss"]}
    assert isinstance(runs.load(run, trust=True), foreign.LitAutoEncoder)

    train(*SETTINGS, *MODULES["gan"], "trainer.max_epochs=1", into="gan")
    assert "there is neither a test nor a validation" in capsys.readouterr().out
