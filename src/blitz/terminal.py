"""Terminal output of a run: its settings before it starts, and its results."""

import contextlib
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from blitz.config.paths import PROJECT, shorten
from blitz.runs.folder import Run
from blitz.runs.report import Report, Rows
from blitz.runs.reproduce import Comparison, differences

if TYPE_CHECKING:  # a sweep prints its results without torch
    import torch
    from lightning import LightningDataModule, LightningModule, Trainer

    from blitz.runs.exportable import Exportable
    from blitz.runs.resume import Resumable

SHOWN = 10  # predictions in the terminal
LINE_SECONDS = 10.0  # between two lines of progress, if the output is not a terminal

console = Console(emoji=False)


def silence_lightning() -> None:
    """Hide Lightning's notes about itself, and its warnings about settings that blitz chose on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # the table of a profiler
    for message in (
        "The number of training batches",
        ".*isinstance.treespec, LeafSpec.*",
        "Checkpoint directory .* exists",
        "Total length of `list`",
        "You requested to overfit",
        ".*AMP with fp16 is not supported on CPU",  # build.trainer refuses this precision
        ".*could not find the monitored key",  # training ended before any validation: results.py then validates
        "It is recommended to use `self.log",  # sync_dist: the metrics are already reduced over the ranks
    ):
        warnings.filterwarnings("ignore", message)
    if not sys.warnoptions:  # python -W or PYTHONWARNINGS shows all of them
        warnings.showwarning = _show_own_warning


def _show_own_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning that is attributed to a file of the project. Hide those of libraries."""
    if Path(filename).is_relative_to(PROJECT) and not Path(filename).is_relative_to(sys.prefix):
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def show_lines(lines: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Print a label and a text per line. Lines are never wrapped or cut, so that paths can be copied."""
    for label, text in lines.items() if isinstance(lines, Mapping) else lines:
        console.print(f"{label:<15}{escape(text)}", soft_wrap=True, highlight=False)


def show_start(
    run: Path,
    config: Mapping[str, Any],
    task: "LightningModule",
    data: Any,
    trainer: "Trainer",
    resumed: "Resumable | None" = None,
) -> None:
    """Print model, data, batch size, devices and run directory, and how the run relates to earlier ones."""
    net = (config["model"] or config["task"])["_target_"].rpartition(".")[2]
    parameters = sum(parameter.numel() for parameter in task.parameters())
    show_lines({"model": f"{net}, {parameters:,} parameters, on {_device(trainer.strategy.root_device)}"})
    show_lines(_data(data, task, trainer))
    show_lines({"run": f"{shorten(run)}, seed {config['seed']}"})
    if resumed is not None:
        show_lines(("damaged", line) for line in resumed.damaged)
        show_lines(("differs", f"{line}; results may differ in rounding from here on") for line in resumed.differences)
        show_lines({"resumed": _position(resumed)})
    if config["init_from"]:
        show_lines({"init from": shorten(Path(config["init_from"]))})
    if config["reproduce"]:
        original = Run(Path(config["reproduce"]))
        show_lines({"reproduces": shorten(original.path)})
        show_lines(("differs", line) for line in differences(original, Run(run)))


def _data(data: "LightningDataModule | None", task: "LightningModule", trainer: "Trainer") -> dict[str, str]:
    """Return lines about the data and the batches."""
    from blitz.runs.protocols import DescribedData

    if not isinstance(data, DescribedData):
        return {"data": type(data or task).__name__}
    lines = dict(data.describe(trainer.strategy.root_device))
    num_devices = trainer.world_size if trainer.world_size > 1 else trainer.num_devices
    per_device = f"{-(-data.batch_size // num_devices)} on each of {num_devices} devices"
    lines["batch"] = f"{data.batch_size} images, {per_device if num_devices > 1 else 'on one device'}"
    if trainer.accumulate_grad_batches > 1:
        lines["batch"] += f"; {trainer.accumulate_grad_batches} batches a step"
    return lines


def _device(device: "torch.device") -> str:
    import torch

    threads = torch.get_num_threads()
    return f"cpu, {threads} {'thread' if threads == 1 else 'threads'}" if device.type == "cpu" else str(device)


def _position(resumed: "Resumable") -> str:
    if resumed.path is None:
        return "from the start; nothing was saved yet"
    return f"after step {resumed.checkpoint['global_step']:,}, from {shorten(resumed.path)}"


def show_last_stage(stage: str, kept: Path | None, metrics: Mapping[str, float]) -> None:
    """Print to which weights and which stage the results belong.

    Args:
        stage: ``test``; ``val`` if there is no test; ``train`` if there is no validation either.
        kept: the checkpoint; None if the run saves none.
        metrics: value of the metric that selected the checkpoint, by name.
    """
    values = "".join(f", {name} {value:.4g}" for name, value in metrics.items())
    weights = "the last weights" if kept is None else shorten(kept)
    if stage == "test":
        show_lines({"tested": f"{weights}{values}"} if kept and values else {})
    elif stage == "val":
        show_lines({"validated": f"{weights}{values}; there is no test"})
    else:
        show_lines({"kept": f"{weights}{values}; there is neither a test nor a validation"})


def show_end(run: Run, report: Report) -> None:
    """Print the report of the test, the dashboard's command, and the run directory on the last line."""
    if report.display:
        console.print(_table(report.display), highlight=False)
    show_lines({**report.summary, "dashboard": dashboard_command(run.path.parent), "run": shorten(run.path)})


def _table(rows: Rows) -> Table:
    """Return a table with a left-aligned first column, right-aligned others, and a column without title for marks."""
    first, *others = rows[0]
    columns = [Column(title, justify="right" if title else "left") for title in others]
    table = Table(Column(first, overflow="fold"), *columns, box=box.SIMPLE_HEAD)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def show_predictions(
    records: Sequence[Mapping[str, Any]], report: Report, number: int, skipped: Sequence[str], written: Sequence[Path]
) -> None:
    """Print the first predictions, the report of the task, the files that cannot be read, and the files of the results.

    Args:
        records: the first predictions; only their numbers and texts are shown, without the numbers by class.
        number: of all predictions.
    """
    if records:
        names = [name for name, value in records[0].items() if not isinstance(value, Mapping)]
        rows = [[escape(_cell(record[name])) for name in names] for record in records[:SHOWN]]
        console.print(_table([names, *rows]), highlight=False)
    show_lines(report.summary)
    show_lines(("skipped", line) for line in skipped)
    show_lines({"predictions": f"{number:,} in {shorten(written[0])}"})
    show_lines(("picture", shorten(path)) for path in written[1:])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_export(model: "Exportable", compared: tuple[int, float], written: Sequence[Path]) -> None:
    """Print input, output and file of an exported model, and its largest difference from the original."""
    count, difference = compared
    shape = ", ".join(map(str, model.example.shape[1:]))
    show_lines(
        {
            "input": f"{model.input}, {str(model.example.dtype).removeprefix('torch.')} (n, {shape})",
            "output": f"{model.output}, float32",
            "compared": f"{count} test samples, largest difference from the original {difference:.1e}",
            "exported": f"{shorten(written[0])}, {written[0].stat().st_size / 1e6:.1f} MB",
        }
    )


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many of ``total`` are done: a bar in a terminal, otherwise a line from time to time.

    Yield a function that is called with the number of those that are newly done.
    """
    if console.is_terminal:
        bar_width = max(4, min(40, console.width - 36))  # the counts need the rest
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda number: bar.advance(task, number)
        return
    done, printed = 0, time.monotonic()

    def advance(number: int) -> None:
        nonlocal done, printed
        done += number
        if time.monotonic() - printed > LINE_SECONDS:
            printed = time.monotonic()
            show_lines({label: f"{done:,}" if total is None else f"{done:,} of {total:,}"})

    yield advance


def show_comparison(comparison: Comparison) -> None:
    """Print whether a run has the same metrics as the run that it reproduces, and up to ten that differ."""
    if not comparison.total:
        show_lines({"metrics": "none to compare: the task logs none"})
        return
    if not comparison.differing:
        show_lines({"metrics": f"identical: all {comparison.total} of them"})
        return
    reason = "see the differences above" if comparison.explained else "no recorded difference explains it"
    show_lines({"metrics": f"{len(comparison.differing)} of {comparison.total} differ; {reason}"})
    show_lines(("differs", line) for line in comparison.differing[:10])
    if len(comparison.differing) > 10:
        show_lines({"differs": f"and {len(comparison.differing) - 10} more"})


def dashboard_command(path: Path) -> str:
    """Return the command that shows the runs in a directory. It also works outside of the virtual environment."""
    program = Path(sys.executable).with_name("tensorboard")
    found = shutil.which("tensorboard")
    name = "tensorboard" if found and Path(found).parent == program.parent else shorten(program)
    return " ".join(f'"{text}"' if " " in text else text for text in (name, "--logdir", shorten(path)))
