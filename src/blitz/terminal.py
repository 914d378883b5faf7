"""What the terminal shows of a run: what it is before it starts, and how good it was in the end."""

import logging
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from blitz.config import short
from blitz.data._datamodule import ImageDataModule
from blitz.reproduce import compare, differences
from blitz.resume import Resumable
from blitz.runs import Run

console = Console()

# What Lightning says of itself, and of things that are as they should be here.
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # a profile is asked for to be seen
for _message in (
    "The number of training batches",
    ".*isinstance.treespec, LeafSpec.*",
    "Checkpoint directory .* exists",
    "Total length of `list`",
    "You requested to overfit",
    "It is recommended to use `self.log",  # sync_dist: the figures are those of all processes already
):
    warnings.filterwarnings("ignore", _message)


def per_class(classes: Sequence[str], confusion: Tensor) -> Table:
    """A table of ``confusion``, int ``(classes, classes)``, true by predicted; best and worst class are marked."""
    table = Table(
        "class",
        *(Column(title, justify="right") for title in ("images", "correct", "accuracy")),
        "",
        box=box.SIMPLE_HEAD,
    )
    counts = list(zip(confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True))
    accuracy = [correct / count if count else None for count, correct in counts]
    known = [value for value in accuracy if value is not None]
    for name, (count, correct), value in zip(classes, counts, accuracy, strict=True):
        mark = ""
        if value is not None and max(known) > min(known):
            mark = {max(known): "[green]best[/]", min(known): "[red]worst[/]"}.get(value, "")
        table.add_row(escape(name), str(count), str(correct), percent(value), mark)
    return table


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.2f} %"


def dashboard(folder: Path) -> str:
    """The command that shows the runs in a folder, as it works from here, in this environment or outside of it."""
    program = Path(sys.executable).with_name("tensorboard")
    found = shutil.which("tensorboard")
    name = "tensorboard" if found and Path(found).parent == program.parent else short(program)
    return " ".join(f'"{text}"' if " " in text else text for text in (name, "--logdir", short(folder)))


def facts(**lines: str) -> None:
    """A word and what it is, a line each. Never wrapped or cut: paths are there to be copied."""
    for word, text in lines.items():
        console.print(f"{word.replace('_', ' '):<15}{escape(text)}", soft_wrap=True, highlight=False)


def start(
    run: Path,
    config: Mapping[str, Any],
    task: LightningModule,
    data: ImageDataModule,
    trainer: Trainer,
    resumed: Resumable | None = None,
) -> None:
    """What is about to run, on what, and where it will be found."""
    net = config["model"]["_target_"].rpartition(".")[2]
    parameters = sum(parameter.numel() for parameter in task.parameters())
    sizes = " + ".join(f"{len(split.labels):,} {name}" for name, split in data.splits.items())
    device = trainer.strategy.root_device
    threads = torch.get_num_threads()
    where = (
        f"{device.type}, {threads} {'thread' if threads == 1 else 'threads'}" if device.type == "cpu" else str(device)
    )
    fetched = (
        f"whole on {device.type}" if data.in_memory(len(data.splits["train"].labels)) else f"{data.workers} workers"
    )
    count = trainer.world_size if trainer.world_size > 1 else trainer.num_devices
    each = f"{-(-data.batch_size // count)} on each of {count} devices" if count > 1 else "on one device"
    accumulated = trainer.accumulate_grad_batches
    facts(
        model=f"{net}, {parameters:,} parameters, on {where}",
        data=f"{type(data).__name__}, {sizes} images",
        images=f"{data.channels}×{data.image_size}×{data.image_size}, {len(data.classes)} classes, {fetched}",
        batch=f"{data.batch_size} images, {each}" + (f"; {accumulated} batches a step" if accumulated > 1 else ""),
        run=f"{short(run)}, seed {config['seed']}",
    )
    if resumed is not None:
        for line in resumed.damaged:
            facts(damaged=line)
        for line in resumed.differs:
            facts(differs=f"{line}: from here on perhaps not the same bits")
        facts(goes_on=_where(resumed))
    if config["init_from"]:
        facts(init_from=short(Path(config["init_from"])))
    if config["reproduce"]:
        original = Run(Path(config["reproduce"]))
        facts(reproduces=short(original.path))
        for line in differences(original, Run(run)):
            facts(differs=line)


def _where(resumed: Resumable) -> str:
    if resumed.path is None:
        return "from the start: it had saved nothing yet"
    return f"after step {resumed.checkpoint['global_step']:,}, from {short(resumed.path)}"


def end(run: Run, classes: Sequence[str], confusion: Tensor) -> None:
    """How good it was, by class, how to look closer, and last the run's folder."""
    count, correct = int(confusion.sum()), int(confusion.trace())
    console.print(per_class(classes, confusion), highlight=False)
    facts(
        test_accuracy=f"{percent(correct / count)}  ({correct:,} of {count:,})",
        dashboard=dashboard(run.path.parent),
        run=short(run.path),
    )


def verdict(was: Run, now: Run) -> None:
    """Whether a run gave what the one gave that it reproduces."""
    count, differing = compare(was, now)
    if not differing:
        facts(metrics=f"are identical: all {count} figures")
        return
    known = "see what differs, above" if differences(was, now) else "nothing that is recorded explains it"
    facts(metrics=f"differ in {len(differing)} of {count} figures; {known}")
    for line in differing[:10]:
        facts(differs=line)
    if len(differing) > 10:
        facts(differs=f"and {len(differing) - 10} more")


def sweep(jobs: Sequence[Sequence[str]], folders: Sequence[Path]) -> None:
    """The closing table of a sweep: what tells a job from the others, its test accuracy and its state."""
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    table = Table("job", Column("test accuracy", justify="right"), "state", box=box.SIMPLE_HEAD)
    for overrides, folder in zip(jobs, folders, strict=True):
        metrics = Run(folder).metrics
        state = "[green]done[/]" if metrics else "[red]failed[/]"
        name = " ".join(override for override in overrides if override not in shared)
        table.add_row(escape(name), percent((metrics or {}).get("test/acc")), state)
    console.print(table, highlight=False)
    facts(dashboard=dashboard(folders[0].parent), sweep=short(folders[0].parent))
