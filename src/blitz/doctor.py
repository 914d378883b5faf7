"""blitz-doctor: a short run on every device of this machine. Does it work, how fast is it, does it learn the same?

Exits with status 1 if a device that exists does not work, or if its losses differ from those of the CPU.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from blitz.cli.parser import Parser
from blitz.errors import UserError
from blitz.process import signals

SETTINGS = (  # a small learning rate: with a large one, rounding errors soon change the losses
    "data=digits", "model=net", "optimizer=sgd", "optimizer.lr=0.01", "schedule=constant", "seed=0", "logger=csv",
    "trainer.max_epochs=3", "trainer.log_every_n_steps=10", "+callback.speed._target_=blitz.doctor.Speed",
)  # fmt: skip
TOLERANCE = {"cpu": 1e-4, "dp_cpu": 1e-4, "ddp_cpu": 1e-4}
ACCELERATOR_TOLERANCE = 2e-2  # for losses near 2: an accelerator multiplies with fewer bits (TF32)
TIMEOUT = 300  # seconds, for a run that takes ten


class Device(NamedTuple):
    """A choice of ``device=`` with a number of devices, and the reason if this machine does not have it."""

    name: str
    devices: int
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.name} × {self.devices}" if self.devices > 1 else self.name


class Result(NamedTuple):
    """The outcome of a run: an error, or its speed and the training losses."""

    device: Device
    error: str = ""
    images_per_second: float = 0.0
    losses: tuple[float, ...] = ()


class Speed(Callback):
    """Log the training images per second of each epoch, as ``speed``."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = len(trainer.datamodule.splits["train"].labels)  # type: ignore[attr-defined]
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        pl_module.log("speed", images / (time.perf_counter() - self.start))


def devices() -> list[Device]:
    """Return the devices that a small run can use, and the reason for each that this machine does not have."""
    gpus = torch.cuda.device_count()
    no_gpu = "" if gpus else "no GPU that torch can use"
    return [
        Device("cpu", 1),
        Device("dp_cpu", 3),
        Device("ddp_cpu", 2),
        Device("gpu", 1, no_gpu),
        Device("dp", gpus, no_gpu or ("" if gpus > 1 else "one GPU: dp needs two")),
        Device("ddp", gpus, no_gpu),
        Device("mps", 1, "" if torch.backends.mps.is_available() else "no Apple GPU"),
    ]


def examine(device: Device) -> Result:
    """Train on ``device`` in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        overrides = (f"device={device.name}", f"trainer.devices={device.devices}", *SETTINGS, f'hydra.run.dir="{run}"')
        command = [sys.executable, "-m", "blitz.train", *overrides]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return Result(device, f"still running after {TIMEOUT} s")
        if done.returncode:
            return Result(device, (done.stderr.splitlines() or [f"ended with status {done.returncode}"])[-1])
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    speed = max(float(row["speed"]) for row in rows if row["speed"])
    return Result(device, "", speed, tuple(float(row["train/loss_step"]) for row in rows if row["train/loss_step"]))


def judge(results: Iterable[Result]) -> tuple[Table, list[str]]:
    """Return the table of the results, and a line for each fault. The first result must be that of the CPU."""
    table = Table("device", "works", *(Column(title, justify="right") for title in ("images/s", "loss, off by")))
    table.box = box.SIMPLE_HEAD
    faults = []
    reference: tuple[float, ...] | None = None
    for device, error, speed, losses in results:
        reference = losses if reference is None else reference
        if device.missing:
            table.add_row(str(device), f"[dim]{device.missing}[/]", "", "")
        elif error:
            table.add_row(str(device), f"[red]no: {escape(error)}[/]", "", "")
            faults.append(f"{device} does not work: {error}")
        else:
            difference = max((abs(a - b) for a, b in zip(losses, reference, strict=True)), default=0.0)
            equal = difference <= TOLERANCE.get(device.name, ACCELERATOR_TOLERANCE)
            table.add_row(str(device), "yes", f"{speed:,.0f}", f"[{'green' if equal else 'red'}]{difference:.1e}[/]")
            if not equal:
                faults.append(f"{device} does not learn as the CPU does: a loss is off by {difference:.1e}")
    return table, faults


@signals.exit_on_signals()
def main() -> None:
    parser = Parser(prog="blitz-doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    try:
        parser.parse_args()
    except UserError as error:
        sys.exit(f"blitz-doctor: {error}; expected no arguments")
    console = Console()
    results = []
    for device in devices():
        with console.status(f"a short run on {device}"):
            results.append(Result(device) if device.missing else examine(device))
    table, faults = judge(results)
    console.print(table, highlight=False)
    if faults:
        sys.exit(f"blitz-doctor: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
