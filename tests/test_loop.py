"""The fit loop against Lightning's own: the same weights, figures, counters and calls, in the same order."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, TensorDataset

from blitz.loop import FitLoop

HOW = ("backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad")
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
QUIET = {"on_save_checkpoint", "on_load_checkpoint"}


class Keeper:
    def on_duty(self) -> nullcontext[None]:
        return nullcontext()

    def restore_random(self) -> None:
        pass

    def pause(self) -> None:
        pass


class Logger(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:  # type: ignore[override]
        self.lines.append((step, dict(metrics)))


class Task(LightningModule):
    def __init__(self, schedule: str | None = None, no_loss_at: int = -1, stops_at: int = -1) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3))
        self.schedule, self.no_loss_at, self.stops_at = schedule, no_loss_at, stops_at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == self.stops_at else None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.no_loss_at:
            return None
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "more": batch_idx} if batch_idx % 2 else loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("end", 2.0 * batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.schedule is None:
            return optimizer
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val"}}
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.schedule}}


def hooks(base: type) -> list[str]:
    return [
        name for name in dir(base) if name.startswith("on_") and name not in QUIET and callable(getattr(base, name))
    ]


def recording(base: type, calls: list[Any], *names: str) -> type:
    """A subclass that writes down its calls: the hook, what Lightning says it is in, and how far the run is."""

    def recorder(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            module = self if isinstance(self, LightningModule) else args[1]
            loop = module.trainer.fit_loop.epoch_loop
            calls.append((base.__name__, name, module._current_fx_name, loop.batch_idx, loop.global_step))
            return getattr(super(made, self), name)(*args, **kwargs)

        return hook

    made = type(f"Recording{base.__name__}", (base,), {name: recorder(name) for name in names})
    return made


def fit(ours: bool, overridden: tuple[str, ...] | None = None, task: Any = None, **options: Any) -> Any:
    calls: list[Any] = []
    torch.manual_seed(0)
    module = Task if overridden is None else recording(Task, calls, *hooks(LightningModule), *overridden)
    callbacks = [] if overridden is None else [recording(Callback, calls, *hooks(Callback))()]
    logger = Logger()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 3, "log_every_n_steps": 2, **options},
    )
    if ours:
        trainer.fit_loop = FitLoop(trainer, Keeper())
    data = TensorDataset(torch.randn(30, 6), torch.randint(0, 3, (30,)))
    made = module(**(task or {}))
    trainer.fit(made, DataLoader(data, 4, shuffle=True), DataLoader(data, 10))
    return (
        calls,
        made.state_dict(),
        trainer.optimizers[0].state_dict(),
        logger.lines,
        {name: float(value) for name, value in trainer.callback_metrics.items()},
        trainer.fit_loop.state_dict(),
    )


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clip by norm": {"gradient_clip_val": 0.1},
    "clip by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2},
    "schedule by step": {"task": {"schedule": "step"}, "accumulate_grad_batches": 2},
    "schedule by epoch": {"task": {"schedule": "epoch"}},
    "schedule by plateau": {"task": {"schedule": "plateau"}},
    "validation within the epoch": {"val_check_interval": 3},
    "validation by steps": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "max_steps": {"max_steps": 11},
    "limit_train_batches": {"limit_train_batches": 3},
    "bf16": {"precision": "bf16-mixed"},
    "double": {"precision": "64-true"},
    "no loss": {"task": {"no_loss_at": 4}},
    "epoch ended by -1": {"task": {"stops_at": 5}},
    "profiler": {"profiler": "simple"},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("overridden", [None, (), TRANSFERS, HOW], ids=["no hook", "hooks", "transfers", "steps"])
def test_a_run_is_that_of_lightnings_loop(name, overridden):
    stock, ours = (fit(ours, overridden, **CONFIGURATIONS[name]) for ours in (False, True))
    torch.testing.assert_close(ours[1:], stock[1:], rtol=0, atol=0)
    assert ours[0] == stock[0]


def test_profiler_has_its_table():
    profilers = [SimpleProfiler(), SimpleProfiler()]
    for ours, profiler in zip((False, True), profilers, strict=True):
        fit(ours, profiler=profiler)
    stock, mine = (
        {
            name.replace("_TrainingEpochLoop", "EpochLoop"): len(times)
            for name, times in profiler.recorded_durations.items()
        }
        for profiler in profilers
    )
    assert mine == stock
