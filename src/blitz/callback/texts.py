"""Config, commands and results of a run as text."""

import shlex
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from blitz.callback.drawing import writers
from blitz.config.paths import as_override
from blitz.runs.folder import Run
from blitz.runs.protocols import reports
from blitz.runs.report import Rows


class Texts(Callback):
    """Write the composed config and the commands at the start, and the results of each evaluation at the end.

    Config and commands are those in the run directory, ``trainer.default_root_dir``. Without it, they are left out.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir)
        if trainer.fit_loop.total_batch_idx >= 0 or not (path / "config.yaml").exists():
            return
        for writer in writers(trainer):
            writer.add_text("run/config", _code((path / "config.yaml").read_text(encoding="utf-8")), 0)
            writer.add_text("run/command", _commands(Run(path)), 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._write_results(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_results(trainer, pl_module, "test")

    def _write_results(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        metrics = trainer.callback_metrics  # on all ranks, because Lightning may reduce values over them now
        for writer in writers(trainer):
            rows = [(name, f"{float(value):.6g}") for name, value in sorted(metrics.items())]
            tables: dict[str, Rows] = {"metrics": [("metric", "value"), *rows]}
            if reports(module):
                tables |= module.report(stage).tables
            for name, table in tables.items():
                writer.add_text(f"{stage}/{name}", markdown(table), trainer.global_step)


def markdown(rows: Rows) -> str:
    """Return a table in Markdown. The first row is the header."""
    lines = [" | ".join(_cell(value) for value in row) for row in rows]
    lines.insert(1, " | ".join("---" for _ in rows[0]))
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value as text, with the characters that Markdown or HTML would interpret escaped."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(f"&#{ord(char)};" if char in "\\|`*_<>[]&\n\r" else char for char in text)


def _commands(run: Run) -> str:
    program, *arguments = run.environment["command"]
    command = shlex.join([Path(program).name, *arguments])
    again = f"blitz-train {as_override('reproduce', run.path)}"
    return f"This run:\n\n{_code(command)}\n\nThe same run again, in a new directory:\n\n{_code(again)}"


def _code(text: str) -> str:
    """Return a block of code in Markdown, indented: a fence could occur in the text."""
    return "\n".join(f"    {line}" for line in text.splitlines())
