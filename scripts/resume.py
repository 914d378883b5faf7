"""Kill runs at every step, resume them, and compare them bit for bit with the uninterrupted run.

``python scripts/resume.py`` takes about twenty minutes on two cores. It runs every schedule, optimizer and accumulation
of ``configs/``, and other kinds of run, on the digits. Each run has dropout, batch norm, augmentation, validation
within its epochs, and two loggers. SIGKILL ends it after each of its steps: before the step's checkpoint is written,
while it is written, or just after. The resumed run is compared with the uninterrupted one: every number in its
checkpoints (weights, optimizer, schedule, random states, callbacks), the final metrics, and every point of the curves,
in the order of the files.

Importing torch takes longer than a run. So it is imported once, and each run is a fork of this process; only POSIX
systems can fork.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark import machine
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.data import DataLoader, TensorDataset

from blitz import train
from blitz.callback.last_checkpoint import LastCheckpoint
from blitz.cli import app
from blitz.config.paths import CONFIGS
from blitz.data.digits import Digits
from blitz.runs import atomic, checkpoint
from blitz.runs.folder import LAST, NEXT, PREVIOUS, Run
from blitz.runs.resume import newest_intact

# Modules that a run imports late.
LATE = ("blitz.callback.progress", "blitz.data.augment", "blitz.data.digits", "blitz.logger.csv", "blitz.model.net",
        "blitz.logger.tensorboard", "blitz.task.classify", "blitz.training.build", "blitz.training.tune")  # fmt: skip
NET = "{_target_: blitz.model.net.Net, in_channels: 1, num_classes: 10, image_size: 16}"
LAYERS = f"[{{_target_: torch.nn.Dropout, p: 0.2}}, {{_target_: torch.nn.BatchNorm2d, num_features: 1}}, {NET}]"
BASE = (
    "seed=1", "device=cpu", "data.batch_size=200", "data.image_size=16", "logger=[tensorboard,csv]",
    "trainer.max_epochs=2", "trainer.log_every_n_steps=2", "trainer.val_check_interval=3",
    "callback.last.every_n_steps=1", "callback.last.time_share=null",
    "model._target_=torch.nn.Sequential", f"+model._args_={LAYERS}",
    "~model.in_channels", "~model.num_classes", "~model.image_size",
    *(f"+data.augment.{name}._target_=blitz.data.augment.{name}" for name in ("Flip", "Cutout")),
    "callback/dashboard=none", "+callback.curves._target_=blitz.callback.curves.Curves",
)  # fmt: skip
MEASURED = ("train/memory_mib", "train/seconds_per_step", "train/samples_per_second")  # differ when a step is repeated
EPOCHS = ("trainer.val_check_interval=1.0", "data.batch_size=400")
SHAPES = {
    "trainer.max_steps, within an epoch": ("trainer.max_steps=10",),
    "trainer.max_steps, no limit of epochs": ("trainer.max_steps=10", "trainer.max_epochs=-1"),
    "validation after every second epoch": (*EPOCHS, "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2"),
    "early stopping": (*EPOCHS, "trainer.max_epochs=9", "callback=early_stopping",
                                    "callback.early_stopping.patience=1", "+callback.early_stopping.min_delta=0.5"),
    "the two best checkpoints, by loss": ("callback.checkpoint.monitor=val/loss", "callback.checkpoint.mode=min",
                                          "+callback.checkpoint.save_top_k=2", "callback.checkpoint.filename='{step}'"),
    "averaged weights": ("+callback.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging",),
    "gradient clipping": ("trainer.gradient_clip_val=0.1",),
    "no validation": ("data.val_fraction=0", "callback.checkpoint.monitor=null", "optimized_metric=null",
                      "trainer.val_check_interval=1.0"),
    "limit_train_batches": ("trainer.limit_train_batches=5", "trainer.max_epochs=3"),
    "saved every 4 steps": ("callback.last.every_n_steps=4",),
    "saved every 4 steps, accumulation 2": ("callback.last.every_n_steps=4", "trainer.accumulate_grad_batches=2"),
    "all dashboards": ("callback/dashboard=full",),
    "images from two workers": ("data.loader=workers", "data.num_workers=2"),
    "trainer.precision=bf16-mixed": ("trainer.precision=bf16-mixed",),
    "device=dp_cpu, two replicas": ("device=dp_cpu",),
    "device=ddp_cpu, two processes": ("device=ddp_cpu",),
    "device=ddp_cpu, three processes": ("device=ddp_cpu", "trainer.devices=3"),
    "device=ddp_cpu, four processes": ("device=ddp_cpu", "trainer.devices=4"),
    "a plain DataLoader": ("data._target_=resume.PlainDigits",),
    "a callback that sets values by epoch": ("+callback.by_epoch._target_=resume.SetByEpoch", "trainer.max_epochs=3"),
}  # fmt: skip
# Number of kill points of slow configurations: each kill point starts several Python processes.
FEW = dict.fromkeys((name for name in SHAPES if "processes" in name), 6)
# Moments of a save: half of the file is written; the file is complete, but not renamed; resume.ckpt is renamed to
# resume-previous.ckpt, but resume-next.ckpt not yet to resume.ckpt; the save is complete.
SAVING = ("half", "written", "between", "after")


class PlainDigits(Digits):
    """The digits, loaded by a shuffling DataLoader of torch."""

    def train_dataloader(self) -> Any:
        images, labels = map(torch.cat, zip(*super().train_dataloader(), strict=True))
        return DataLoader(TensorDataset(images, labels), self.batch_size, shuffle=True)


class SetByEpoch(Callback):
    """Set the learning rate, a frozen layer and the accumulation at the start of each epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        trainer.optimizers[0].param_groups[0]["lr"] = 0.01 / (epoch + 1)
        trainer.accumulate_grad_batches = 1 + epoch % 2
        next(pl_module.parameters()).requires_grad_(epoch != 1)


class Trial(NamedTuple):
    """A run to kill and resume.

    Args:
        name: of its configuration.
        whole: the run directory of the uninterrupted run.
        step: the optimizer step after which to kill it.
        moment: one of ``SAVING``; "before" the save; or "tested", at the end of the test.
    """

    name: str
    overrides: Sequence[str]
    whole: Path
    step: int
    moment: str


class Outcome(NamedTuple):
    trial: Trial
    repeated_steps: int
    differences: list[str]


def configurations() -> dict[str, Sequence[str]]:
    """Return the overrides of each configuration by its name."""
    schedules, optimizers = (
        sorted(path.stem for path in (CONFIGS / group).glob("[!_]*.yaml")) for group in ("schedule", "optimizer")
    )
    grid = {}
    for schedule, optimizer, batches in product(schedules, optimizers, (1, 2)):
        overrides = (f"schedule={schedule}", f"optimizer={optimizer}", f"trainer.accumulate_grad_batches={batches}")
        grid[f"{schedule}, {optimizer}, accumulation {batches}"] = overrides
    return grid | SHAPES


def run(*overrides: str, out: Path, kill_at: tuple[int, str] | None = None) -> None:
    """Run ``blitz-train`` in a fork of this process, which leads a process group of its own."""
    sys.stdout.flush()
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != (-signal.SIGKILL if kill_at else 0):
            raise RuntimeError(f"ended with status {status}: {out.read_text()[-500:]}")
        return
    status = 1
    try:
        os.setsid()
        with out.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["blitz-train", *overrides]
        app.run(partial(train_until, *kill_at) if kill_at else train.train, "train")
        status = 0
    except SystemExit as end:
        print(end)
    finally:
        sys.stdout.flush()
        os._exit(status)


def train_until(step: int, moment: str, cfg: DictConfig) -> float | None:
    """Train as ``train.train`` does, and kill all processes of the run."""
    replace = Path.replace

    def kill(*_: Any) -> None:
        os.killpg(0, signal.SIGKILL)

    def write_half(path: Path, content: memoryview) -> None:
        path.with_name(path.name + atomic.TEMPORARY).write_bytes(content[: len(content) // 2])
        kill()

    def rename(path: Path, target: Any) -> Path:
        if path.name == NEXT or (path.name == LAST and moment == "written"):
            kill()
        return replace(path, target)

    def killing(hook: Callable[..., None]) -> Callable[..., None]:
        def wrapped(callback: LastCheckpoint, trainer: Trainer, *rest: Any) -> None:
            if trainer.global_step < step:
                return hook(callback, trainer, *rest)
            if moment == "half":
                checkpoint.write_atomically = write_half
            elif moment in ("written", "between"):
                Path.replace = rename
            if moment != "before":
                hook(callback, trainer, *rest)
            return kill()

        return wrapped

    if moment == "tested":
        LastCheckpoint.on_test_end = kill
    else:
        for hook in ("_save_if_due", "on_train_end"):  # at the start of each step, and after the last one
            setattr(LastCheckpoint, hook, killing(getattr(LastCheckpoint, hook)))
    return train.train(cfg)


def begin(directory: Path, name: str, overrides: Sequence[str]) -> list[Trial]:
    """Run a configuration without interruption. Return the trials for it."""
    whole = Path(tempfile.mkdtemp(dir=directory)) / "run"
    run(*BASE, *overrides, f"hydra.run.dir={whole}", out=whole.with_suffix(".txt"))
    steps = newest_intact(Run(whole)).checkpoint["global_step"]
    shift = sum(map(ord, name))  # the moments fall on other steps in other configurations
    moments = [(step, at) for step in range(1, steps + 1) for at in ("before", SAVING[(step + shift) % len(SAVING)])]
    trials = [Trial(name, overrides, whole, *at) for at in (*moments, (steps, "tested"))]
    return random.Random(0).sample(trials, FEW.get(name, len(trials)))


def attempt(trial: Trial) -> Outcome:
    directory, repeated = Path(tempfile.mkdtemp(dir=trial.whole.parent)), 0
    run_dir, out = directory / "run", directory / "out.txt"
    try:
        run(*BASE, *trial.overrides, f"hydra.run.dir={run_dir}", out=out, kill_at=(trial.step, trial.moment))
        repeated = trial.step - newest_intact(Run(run_dir)).checkpoint.get("global_step", 0)
        run(f"resume={run_dir}", out=out)
        found, expected = contents(run_dir), cached_contents(trial.whole)
        differences = [key for key in expected | found if found.get(key) != expected.get(key)]
    except Exception as error:
        differences = [f"{type(error).__name__}: {error}"]
    shutil.rmtree(directory)
    return Outcome(trial, repeated, differences)


def contents(run: Path) -> dict[str, Any]:
    """Return everything that must be equal, bit for bit, by its name."""
    found: dict[str, Any] = {}
    for path in sorted(run.glob("checkpoints/*")):
        if path.name == PREVIOUS:  # its step depends on when the run was saved
            continue
        saved = torch.load(path, weights_only=True)
        saved.get("resume", {}).pop("loggers", None)  # names and sizes of the loggers' files
        found |= numbers(saved, path.name, str(run))
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "metrics.csv"):
        found[name] = (run / name).read_bytes()
    events = (event for path in sorted(run.glob("events.*")) for event in EventFileLoader(str(path)).Load())
    values = ((event.step, value) for event in events for value in event.summary.value)
    points = [(v.tag, step, *v.tensor.float_val) for step, v in values if not v.tag.startswith(MEASURED)]
    scalars = enumerate(point for point in points if len(point) > 2)
    return found | {f"TensorBoard: point {index}": point for index, point in scalars}


def numbers(node: Any, name: str, folder: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from numbers(value, f"{name}: {key}".replace(folder, "RUN"), folder)
    elif isinstance(node, torch.Tensor):
        yield name, (node.dtype, node.shape, node.flatten().view(torch.uint8).numpy().tobytes())
    else:
        yield name, repr(node).replace(folder, "RUN")


cached_contents = cache(contents)  # for the uninterrupted runs, which many are compared with


def as_rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(outcome.trial.name for outcome in outcomes):
        trials = [outcome for outcome in outcomes if outcome.trial.name == name]
        identical = sum(not outcome.differences for outcome in trials)
        yield name, str(len(trials)), str(identical), str(max(outcome.repeated_steps for outcome in trials))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample that takes about a minute, always the same")
    parser.add_argument(
        "--rows", nargs="+", metavar="TEXT", help='rows whose name contains one of these, such as "sgd, "'
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at a time")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args(argv)
    if not hasattr(os, "fork"):
        parser.error("this system has no fork(); use Linux or macOS")
    rows = arguments.rows or [""]
    chosen = [named for named in configurations().items() if any(row in named[0] for row in rows)]
    if not chosen:
        parser.error(f"--rows: no name contains {' or '.join(rows)}")
    if arguments.quick:
        chosen = random.Random(0).sample(chosen, min(10, len(chosen)))
    for module in LATE:
        importlib.import_module(module)
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(arguments.jobs, mp_context=get_context("fork")) as pool,
    ):
        begun = pool.map(partial(begin, Path(directory)), *zip(*chosen, strict=True))
        trials = [trial for row in begun for trial in (row[::5] if arguments.quick else row)]
        attempts = pool.map(attempt, trials)
        outcomes = list(track(attempts, "killed, resumed", len(trials), transient=True))

    numbers = (Column(heading, justify="right") for heading in ("kill points", "identical", "most steps repeated"))
    table = Table("configuration", *numbers, box=box.MARKDOWN if arguments.markdown else box.SIMPLE_HEAD)
    for row in as_rows(outcomes):
        table.add_row(*row)
    Console(width=100).print(table, highlight=False)
    failed = [outcome for outcome in outcomes if outcome.differences]
    for trial, _, differences in failed:
        more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        print(f"differs: {trial.name}, killed {trial.moment} step {trial.step}: {'; '.join(differences[:4])}{more}")
    identical = f"{len(outcomes) - len(failed)} of {len(outcomes)} killed and resumed runs are identical"
    print(f"{identical}; {machine(torch.device('cpu'))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
