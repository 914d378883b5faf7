"""Runs that are stopped and resumed at every step equal the uninterrupted run, bit for bit.

The trainer, its loops and the loaders are Lightning's and torch's own; only the callback is added.
"""

import copy
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics import MeanMetric

from blitz.callback import loop_progress
from blitz.callback.last_checkpoint import LastCheckpoint
from blitz.data.loader import Loader, Split
from blitz.errors import UserError
from blitz.process import random_state, ranks
from blitz.process.agreement import Agreement
from blitz.process.signals import STOPPED
from tests import processes

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that a process could handle"),
    pytest.mark.filterwarnings("ignore"),
]
SAMPLES, BATCH = 19, 4  # 5 batches an epoch, the last one smaller


class Augmented(Dataset[Any]):
    """Each sample draws from the global generator when it is fetched."""

    scale = 1

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.scale * torch.full((6,), index / SAMPLES).cos_() * (index % 3) + 0.1 * torch.randn(6), index % 3


class InMemory:
    """A loader of somebody else that is no DataLoader and has no state, but an epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    @property
    def sampler(self) -> "InMemory":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-SAMPLES // BATCH)

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.epoch)
        data = torch.randn(SAMPLES, 6, generator=generator).split(BATCH)
        return iter(zip(data, (torch.arange(SAMPLES) % 3).split(BATCH), strict=True))


def fixed_data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linspace(-2, 2, SAMPLES * 6).view(SAMPLES, 6), torch.arange(SAMPLES) % 3


def plain_loader(workers: int = 0, dataset: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset or Augmented(), BATCH, shuffle=True, num_workers=workers, **options)


def stateful_loader(**options: Any) -> StatefulDataLoader[Any]:
    return StatefulDataLoader(TensorDataset(*fixed_data()), BATCH, shuffle=True, **options)


def blitz_loader() -> Loader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (SAMPLES, 1, 2, 3), dtype=torch.uint8, generator=generator)
    return Loader(
        Split(images, torch.arange(SAMPLES) % 3), BATCH, torch.tensor([0.5]), torch.tensor([0.2]), shuffle=True
    )


def two_loaders() -> CombinedLoader:
    """The shorter one begins again within the epoch."""
    short = DataLoader(Augmented(), 10, shuffle=True)
    return CombinedLoader([plain_loader(), short], "max_size_cycle")


LOADERS = {
    "plain": plain_loader,
    "ordered": lambda: DataLoader(Augmented(), BATCH),
    "workers": partial(plain_loader, 2),
    "persistent workers": lambda: plain_loader(1, persistent_workers=True, dataset=TensorDataset(*fixed_data())),
    "own generator": lambda: plain_loader(generator=torch.Generator().manual_seed(3)),
    "blitz": blitz_loader,
    "stateful": lambda: StatefulDataLoader(Augmented(), BATCH, shuffle=True),
    "stateful, workers": partial(stateful_loader, num_workers=1),
    "in memory": InMemory,
    "two": two_loaders,
}


class Net(LightningModule):
    """Dropout, batch norm, a metric, and random numbers drawn while a batch is moved to the device."""

    def __init__(self, schedule: str = "step", manual: bool = False, finetuning: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head, self.mean = nn.Linear(8, 3), MeanMetric()
        self.mean.persistent(True)
        self.schedule, self.automatic_optimization = schedule, not manual
        self.lr, self.factor, self.finetuning = 0.05, 1, finetuning

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch if isinstance(batch[0], torch.Tensor) else batch[0]
        images = images.flatten(1)
        return (images + 0.1 * torch.randn(6) if self.training else images), labels

    def loss(self, batch: Any) -> torch.Tensor:
        return F.cross_entropy(self.factor * self.head(self.body(batch[0])), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, sync_dist=True)
        self.log("mean_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        self.log("max", loss, on_step=True, on_epoch=True, reduce_fx="max", sync_dist=True)
        if self.trainer.world_size == 1:  # a checkpoint holds the metric of rank 0 only
            self.mean.update(loss.detach(), len(batch[1]))
            self.log("mean", self.mean, on_step=False, on_epoch=True)
        if not self.automatic_optimization:
            self.manual_backward(loss)
            pairs = list(zip(self.optimizers(), self.lr_schedulers(), strict=True))
            for optimizer, schedule in pairs[: 1 + batch_idx % 2]:  # the head's gradients add up over two batches
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch), sync_dist=True)
        self.log("val_step", self.loss(batch), on_step=True, on_epoch=False)

    def configure_optimizers(self) -> Any:
        if not self.automatic_optimization:
            two = [torch.optim.SGD(self.body.parameters(), 0.1, 0.9), torch.optim.AdamW(self.head.parameters())]
            return two, [StepLR(one, 3, 0.9) for one in two]
        if self.finetuning:
            return torch.optim.AdamW([weight for weight in self.parameters() if weight.requires_grad], self.lr)
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        kind, _, interval = self.schedule.partition(" by ")
        schedules = {
            "plateau": lambda: ReduceLROnPlateau(optimizer, patience=0),
            "onecycle": lambda: OneCycleLR(optimizer, 0.1, int(self.trainer.estimated_stepping_batches)),
            "step": lambda: LambdaLR(optimizer, lambda n: 0.97**n),
        }
        scheduler = {"scheduler": schedules[kind](), "monitor": "val", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": {**scheduler, "interval": interval or "step"}}


class Lines(DummyLogger):
    """Record the logged values. Truncate them as the loggers of blitz do."""

    def __init__(self, lines: Sequence[Any] = ()) -> None:
        super().__init__()
        self.lines = list(lines)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:  # type: ignore[override]
        self.lines += [(step, *item) for item in metrics.items()]

    def position(self, step: int) -> dict[str, int]:
        return {"lines": len(self.lines)}


class StopAt(Callback):
    """Send SIGTERM within a step: ``batch`` counts from 1, over all epochs."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


class AtEpochStart(Callback):
    """Set, in ``on_train_epoch_start``, what many callbacks set there."""

    def __init__(self, *names: str) -> None:
        self.names, self.calls = names, 0

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.calls += 1
        torch.rand(1)
        epoch = trainer.current_epoch
        if "rate" in self.names:  # the schedule changes it at every step
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 0.1 / (epoch + 1)
        if "freeze" in self.names:
            pl_module.body[0].requires_grad_(epoch == 1)
            pl_module.body[1].train(epoch == 1)
        if "once" in self.names and epoch == 0:
            pl_module.body[0].requires_grad_(False)
            pl_module.body[1].eval()
        if "data" in self.names:
            trainer.train_dataloader.dataset.scale = epoch + 2
        if "attribute" in self.names:
            pl_module.factor = epoch + 2
        if "weights" in self.names:
            with torch.no_grad():
                pl_module.head.weight.mul_(0.5)
        if "log" in self.names:
            for logger in trainer.loggers:
                logger.log_metrics({"started": epoch}, trainer.global_step)
            pl_module.log("epoch_start", float(epoch))


class Finetuning(BaseFinetuning):
    """Unfreeze a layer in the second epoch, with a parameter group of its own."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.body[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.body[0], optimizer, lr=0.01)


class Outcome(NamedTuple):
    stopped: bool
    lines: list[Any]
    state: dict[str, Any]


def fit(
    path: Path,
    stop_at: int | None = None,
    resume: bool = False,
    lines: Sequence[Any] = (),
    last: Any = "default",
    loader: str = "blitz",
    net: Any = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Outcome:
    """Train a little net in ``path``. Of a stopped run the state holds the loops alone.

    Args:
        last: the LastCheckpoint; None for a run without one.
        callbacks: functions that make more callbacks.
    """
    seed(99 if resume else 0)
    if last == "default":
        last = LastCheckpoint(every_n_steps=10**6, time_share=None)
    module, logger = Net(**(net or {})), Lines(lines)
    best = ModelCheckpoint(path, monitor="val", save_top_k=2, filename="{step}", enable_version_counter=False)
    made = [make() for make in callbacks]
    trainer = make_trainer(path, [*([last] if last else []), StopAt(stop_at), best, *made], logger=logger, **options)
    file = path / "checkpoints" / "resume.ckpt"
    val = DataLoader(TensorDataset(*fixed_data()), SAMPLES // 2 + 1)
    try:
        trainer.fit(module, LOADERS[loader](), val, ckpt_path=file if resume else None)
    except SystemExit as end:
        if end.code != STOPPED:
            raise
        saved = torch.load(file, weights_only=True)
        kept = saved["resume"]["loggers"][0]["lines"]
        return Outcome(True, logger.lines[:kept], {"loops": saved["loops"]["fit_loop"]})
    return Outcome(False, logger.lines, final_state(trainer, best))


def make_trainer(path: Path, callbacks: Sequence[Any], **options: Any) -> Trainer:
    defaults = {"max_epochs": 2, "log_every_n_steps": 1, "accelerator": "cpu", "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(callbacks=list(callbacks), default_root_dir=path, **{**defaults, **quiet, **options})


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


def final_state(trainer: Trainer, best: ModelCheckpoint) -> dict[str, Any]:
    """Return everything that must be equal."""
    file = best.best_model_path
    saved = torch.load(file, weights_only=False) if file and trainer.is_global_zero else {}
    loops = trainer.fit_loop.state_dict()
    for state in (loops, saved.get("loops", {}).get("fit_loop", {})):
        state.get("state_dict", {}).pop("combined_loader", None)
    callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, LastCheckpoint)]
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "loops": loops,
        "callbacks": {callback.state_key: callback.state_dict() for callback in callbacks},
        "random": random_state.get(),
        "best": saved,
        "metrics": dict(trainer.callback_metrics),
        "should_stop": trainer.should_stop,
    }


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{name}: only one has {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in differences(a[key], b[key], f"{name}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in differences(x, y, f"{name}/{i}")]
    equal = type(a) is type(b) and np.array_equal(a, b)
    return [] if equal else [f"{name}: {str(a)[:60]} is not {str(b)[:60]}"]


def compare(expected: Outcome, found: Outcome, drawing: bool = True) -> list[str]:
    """Compare states and logged lines; the random state only if the run still drew numbers after it was resumed."""
    keys = [key for key in expected.state if drawing or key != "random"]
    states = ({key: outcome.state[key] for key in keys} for outcome in (expected, found))
    return differences(*states) + differences(expected.lines, found.lines, "logged")


def batches_done(outcome: Outcome) -> int:
    return int(outcome.state["loops"]["epoch_loop.batch_progress"]["total"]["completed"])


def examine(
    path: Path, barrier: Any = lambda: None, stops: Sequence[int] = (4, 5), step: int = 2, **config: Any
) -> dict[str, list[str]]:
    """Stop and resume the run at single batches, and then at every ``step``-th one in a chain of runs.

    The runs of the chain also save at every step. With the defaults, the single batches are the last two of an epoch.

    Returns:
        The differences from the run without any LastCheckpoint, by the place of the stop.
    """

    def new() -> Path:
        barrier()
        if not int(os.environ.get("RANK", 0)):
            shutil.rmtree(path, ignore_errors=True)
        barrier()
        return path

    expected = fit(new(), last=None, **config)
    batches = batches_done(expected)
    found = {}
    for batch in stops:
        stopped = fit(new(), stop_at=batch, **config)
        resumed = fit(path, resume=True, lines=stopped.lines, **config) if stopped.stopped else stopped
        # Several ranks may agree on the stop only once the training is complete.
        found[f"stopped at {batch}"] = compare(expected, resumed, drawing=batches_done(stopped) < batches)

    def often() -> LastCheckpoint:
        return LastCheckpoint(every_n_steps=1, time_share=None)

    link, batch = fit(new(), stop_at=1, last=often(), **config), 1
    while link.stopped:
        batch += step
        link = fit(path, stop_at=batch, resume=True, lines=link.lines, last=often(), **config)
    found["a chain"] = compare(expected, link, drawing=False)
    return {name: lines for name, lines in found.items() if lines}


VAL = {"val_check_interval": 2}
EARLY = partial(EarlyStopping, "val", min_delta=0.5)
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Loader of blitz": {},
    **{
        f"loader: {name}": {"loader": name, **({"step": 3} if "workers" in name else {})}
        for name in LOADERS
        if name != "blitz"
    },
    "accumulation 2": {"accumulate_grad_batches": 2},
    "accumulation 3, validation every 3 batches": {"accumulate_grad_batches": 3, "val_check_interval": 3},
    "accumulation over more than an epoch": {"accumulate_grad_batches": 7},
    "accumulation by epoch": {"callbacks": [lambda: GradientAccumulationScheduler({0: 2, 1: 3})]},
    "validation every 0.3 epochs": {"val_check_interval": 0.3},
    "validation every 2 batches": VAL,
    "validation every 3 batches of all epochs": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "validation every 2 epochs": {"check_val_every_n_epoch": 2, "max_epochs": 3},
    "max_steps within an epoch": {"max_steps": 8},
    "max_steps at an epoch's end": {"max_steps": 10, "max_epochs": -1, **VAL},
    "max_steps, accumulation 3": {"max_steps": 3, "max_epochs": -1, "accumulate_grad_batches": 3},
    "gradient clipping": {"gradient_clip_val": 0.1},
    "early stop within an epoch": {"callbacks": [partial(EARLY, patience=3)], "max_epochs": 3, **VAL},
    "early stop": {"callbacks": [partial(EARLY, patience=1)], "max_epochs": 4},
    "early stop before min_epochs": {"callbacks": [partial(EARLY, patience=1)], "min_epochs": 2, **VAL},
    "limit_train_batches": {"limit_train_batches": 3, "loader": "plain", "max_epochs": 3},
    "onecycle": {"net": {"schedule": "onecycle"}, "loader": "plain"},
    "onecycle, Loader of blitz": {"net": {"schedule": "onecycle"}},
    "schedule by epoch": {"net": {"schedule": "step by epoch"}},
    "plateau": {"net": {"schedule": "plateau by epoch"}, "max_epochs": 3},
    "plateau, validation every 2 batches": {"net": {"schedule": "plateau by epoch"}, **VAL},
    "plateau by step": {"net": {"schedule": "plateau by step"}, **VAL},
    "plateau, max_steps": {"net": {"schedule": "plateau by epoch"}, "max_steps": 9},
    "manual optimization": {"net": {"manual": True}},
    "averaged weights": {"callbacks": [partial(EMAWeightAveraging, decay=0.8)]},
    "averaged weights, accumulation 2": {
        "callbacks": [partial(EMAWeightAveraging, decay=0.8)], "accumulate_grad_batches": 2, **VAL,
    },
    **{
        f"set at the start of an epoch: {name}": {"callbacks": [partial(AtEpochStart, name)], "loader": "plain"}
        for name in ("rate", "freeze", "once", "data", "attribute", "weights", "log")
    },
    "set at the start of an epoch, three epochs": {
        "callbacks": [partial(AtEpochStart, "rate", "freeze", "attribute", "weights")], "max_epochs": 3, **VAL,
    },
    "learning rate logged by epoch": {"callbacks": [partial(LearningRateMonitor, "epoch")]},
    "finetuning": {"callbacks": [Finetuning], "net": {"finetuning": True}, "max_epochs": 3},
    "accumulation by epoch, validation every 2 batches": {
        "callbacks": [lambda: GradientAccumulationScheduler({0: 3, 1: 1, 2: 2})], "max_epochs": 3, **VAL,
    },
    "accumulation by epoch, plain": {
        "callbacks": [lambda: GradientAccumulationScheduler({1: 4})], "loader": "plain",
    },
    "logged every 3 steps": {"log_every_n_steps": 3, "accumulate_grad_batches": 2, **VAL},
}  # fmt: skip


AT_EVERY_STEP = {
    "Loader of blitz", "loader: plain", "accumulation 2", "accumulation 3, validation every 3 batches",
    "validation every 2 batches", "plateau, validation every 2 batches", "manual optimization",
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_stopped_and_resumed(name, tmp_path):
    """Both epochs have five batches."""
    places = {"stops": range(1, 11), "step": 1} if name in AT_EVERY_STEP else {}
    assert examine(tmp_path, **{**places, **CONFIGURATIONS[name]}) == {}


def test_names_of_configurations():
    assert CONFIGURATIONS.keys() >= AT_EVERY_STEP


@pytest.mark.parametrize("name", ["Loader of blitz", "loader: plain", "accumulation 2", "plateau"])
def test_saving_changes_nothing(name, tmp_path):
    path, config = tmp_path / "run", CONFIGURATIONS[name]
    expected = fit(path, last=None, **config)
    shutil.rmtree(path)
    often = LastCheckpoint(every_n_steps=1, time_share=None)
    assert compare(expected, fit(path, last=often, **config)) == []


RANKS = """
from pathlib import Path
import sys
from tests.processes import fork_ranks
from tests.callback.test_last_checkpoint import examine_ranks

fork_ranks()
examine_ranks(Path(sys.argv[1]))
"""
OF_TWO_RANKS: dict[str, dict[str, Any]] = {"plain": {"loader": "plain", "accumulate_grad_batches": 2}, "blitz": VAL}


def examine_ranks(path: Path) -> None:
    ranks.run(partial(examine_rank, path / "run"), 2, path, str)


def examine_rank(path: Path) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    rank, world_size = ranks.launched() or (0, 1)
    distributed.init_process_group("gloo", store=ranks.rendezvous_store(), rank=rank, world_size=world_size)
    found = {}
    for name, config in OF_TWO_RANKS.items():
        found[name] = examine(path, distributed.barrier, devices=world_size, strategy="ddp", **config)
    distributed.barrier()
    distributed.destroy_process_group()
    assert not any(found.values()), found


def test_two_processes(tmp_path):
    done = processes.run(RANKS, tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


# -- as Lightning does -------------------------------------------------------------------------------------------------


def stop_and_resume(path: Path, **config: Any) -> Outcome:
    stopped = fit(path, stop_at=3, **config)
    return fit(path, resume=True, lines=stopped.lines, **config)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("batch", [4, 5])
def test_a_checkpoint_of_somebody_else_resumes_as_without_the_callback(hook, batch, tmp_path):
    """It may have been saved at an epoch's last batch, or inside the validation at its end."""
    saved = tmp_path / "saved.ckpt"

    class Saves(Callback):
        pass

    def save(self: Any, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == batch and not trainer.sanity_checking:
            trainer.save_checkpoint(saved)

    setattr(Saves, hook, save)
    fit(tmp_path / "first", callbacks=[Saves])
    if not saved.exists():
        assert (hook, batch) in [("on_validation_end", 4), ("on_train_epoch_end", 4)]
        return

    def resume(*callbacks: Callback) -> Any:
        seed(1)
        module, trainer = Net(), make_trainer(tmp_path / "second", callbacks, enable_checkpointing=False)
        loaders = blitz_loader(), DataLoader(TensorDataset(*fixed_data()), BATCH)
        trainer.fit(module, *loaders, ckpt_path=saved, weights_only=False)
        return trainer.global_step, module.state_dict(), trainer.fit_loop.state_dict(), random_state.get()

    assert differences(resume(), resume(LastCheckpoint())) == []


def test_lightning_alone_resumes_from_it(tmp_path):
    assert fit(tmp_path, stop_at=3).stopped
    resumed = fit(tmp_path, resume=True, last=None)
    assert batches_done(resumed) == 10


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_stop_before_the_first_step_is_kept(hook, tmp_path):
    """As by a Timer whose time is over."""

    class Stops(Callback):
        pass

    def stop(self: Any, trainer: Trainer, *_: Any, **__: Any) -> None:
        trainer.should_stop = True

    setattr(Stops, hook, stop)
    assert fit(tmp_path, stop_at=3).stopped
    resumed = fit(tmp_path, resume=True, callbacks=[Stops])
    assert batches_done(resumed) == 3
    assert resumed.state["should_stop"]


def test_a_signal_after_the_last_moment_to_agree_on_it_is_not_lost(tmp_path, monkeypatch):
    now = Agreement.now

    def late(self: Agreement, *flags: bool) -> list[bool]:
        agreed = now(self, *flags)
        os.kill(os.getpid(), signal.SIGTERM)
        return agreed

    monkeypatch.setattr(Agreement, "now", late)
    assert fit(tmp_path).stopped
    monkeypatch.undo()
    assert batches_done(fit(tmp_path, resume=True)) == 10


def test_nothing_is_left_for_a_second_fit(tmp_path):
    def two_fits(path: Path, stop: bool) -> Any:
        if stop:
            assert fit(path, stop_at=3).stopped
        seed(0)
        last, module = LastCheckpoint(), Net()
        trainer = make_trainer(path, [last], enable_checkpointing=False)
        loader, val = plain_loader(), DataLoader(TensorDataset(*fixed_data()), BATCH)
        trainer.fit(module, blitz_loader(), val, ckpt_path=path / "checkpoints" / "resume.ckpt" if stop else None)
        assert "process_dataloader" not in vars(trainer.strategy)
        seed(1)
        module.load_state_dict(Net().state_dict())
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader, val)
        settings = trainer.num_sanity_val_steps, trainer.check_val_every_n_epoch, trainer.accumulate_grad_batches
        return settings, module.state_dict(), random_state.get()

    assert differences(two_fits(tmp_path / "whole", stop=False), two_fits(tmp_path / "stopped", stop=True)) == []


def test_a_loader_is_the_users_again_after_the_fit(tmp_path):
    loader = plain_loader(1, persistent_workers=True)
    trainer = make_trainer(tmp_path, [LastCheckpoint()], enable_checkpointing=False)
    trainer.fit(Net(), loader)
    assert isinstance(trainer.train_dataloader, DataLoader)
    assert trainer.train_dataloader == loader
    assert trainer.train_dataloader.dataset is loader.dataset
    assert type(copy.copy(trainer.train_dataloader)) is DataLoader
    assert len(list(loader)) == len(trainer.train_dataloader) == 5


def test_a_checkpoint_before_any_fit(tmp_path):
    trainer = make_trainer(tmp_path, [LastCheckpoint()], enable_checkpointing=False)
    trainer.strategy.connect(Net())
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    assert "resume" not in torch.load(tmp_path / "early.ckpt", weights_only=False)


def test_the_learning_rate_finder_finds_the_same(tmp_path):
    def find(*callbacks: Callback) -> Any:
        seed(0)
        trainer, module = make_trainer(tmp_path, callbacks, enable_checkpointing=False), Net()
        found = Tuner(trainer).lr_find(module, plain_loader(), num_training=8)
        return found.results, module.state_dict(), random_state.get(), trainer.global_step

    assert differences(find(), find(LastCheckpoint(every_n_steps=1, time_share=None))) == []


def test_the_users_signal_handler_is_called_and_restored(tmp_path):
    received: list[int] = []

    def users(number: int, _: Any) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, users)
    try:
        assert fit(tmp_path, stop_at=3).stopped
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is users
        assert not fit(tmp_path, resume=True).stopped
        assert signal.getsignal(signal.SIGTERM) is users
    finally:
        signal.signal(signal.SIGTERM, before)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_previous_version(tmp_path):
    """It has no positions of loaders, but the batches that a loader of blitz has handed out."""
    expected, stopped = fit(tmp_path / "whole"), fit(tmp_path / "run", stop_at=3)
    file = tmp_path / "run" / "checkpoints" / "resume.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    for key in ("loaders", "accumulate_grad_batches", "gradients"):
        del checkpoint["resume"][key]
    torch.save(checkpoint, file)
    resumed = fit(tmp_path / "run", resume=True, lines=stopped.lines)
    del expected.state["callbacks"], resumed.state["callbacks"], expected.state["best"], resumed.state["best"]
    assert compare(expected, resumed) == []


def test_an_unknown_version_of_lightning_is_named(tmp_path, monkeypatch, capsys):
    assert fit(tmp_path, stop_at=3).stopped
    fit(tmp_path, resume=True)
    assert "exact resume" not in capsys.readouterr().err
    monkeypatch.setattr(lightning, "__version__", "9.9.0")
    fit(tmp_path, resume=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "exact resume" in line]
    assert len(lines) == 1
    assert lines[0].startswith("lightning 9.9.0: exact resume is proven for 2.6.6 only")


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_version_without_the_names_that_exactness_needs_still_resumes(stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr(LastCheckpoint, "_wrap_loaders", lambda self, trainer: None)
    for name in ("can_take_back", "take_back", "finished_batches", "drop_loader_states", "begin_epoch", "end_restart"):
        monkeypatch.setattr(loop_progress, name, lambda *_: 0)
    stopped = fit(tmp_path, stop_at=stop_at, loader="plain")
    assert stopped.stopped
    resumed = fit(tmp_path, resume=True, loader="plain")
    assert resumed.state["loops"]["epoch_progress"]["current"]["completed"] == 2
    assert batches_done(resumed) == 10


def test_lines_for_the_user(tmp_path, capsys):
    assert fit(tmp_path, stop_at=3, loader="two").stopped
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGTERM after step 3"
    fit(tmp_path, resume=True, loader="two")
    assert capsys.readouterr().err.count("skipping the 3 batches of this epoch that are done\n") == 1


@pytest.mark.parametrize("argument", [{"every_n_steps": 0}, {"time_share": 0}, {"time_share": 1.5}])
def test_arguments_out_of_range(argument):
    (name,) = argument
    with pytest.raises(UserError, match=f"callback.last.{name}={argument[name]}: out of range; expected"):
        LastCheckpoint(**argument)
