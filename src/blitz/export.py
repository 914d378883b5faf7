"""blitz-export: write a trained model as one file that needs neither blitz nor Lightning."""

from pathlib import Path
from typing import TYPE_CHECKING

from blitz.cli import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(cfg: "DictConfig") -> None:
    """Export the model of ``cfg.run`` or ``cfg.checkpoint``, and compare it with the original on its test data."""
    from lightning import seed_everything

    from blitz import terminal
    from blitz.errors import UserError
    from blitz.runs import checkpoint
    from blitz.runs.folder import refuse_results, write_results
    from blitz.runs.metadata import environment
    from blitz.runs.protocols import ExportableTask
    from blitz.training import build, exporting, inputs
    from blitz.training.recorded import recorded_config

    terminal.silence_lightning()
    exporting.check_packages(cfg.format)
    refuse_results(Path(cfg.output_dir))
    path = checkpoint.checkpoint_file(cfg.run or cfg.checkpoint)
    config = recorded_config(cfg, path, "data")
    seed_everything(config["seed"], verbose=False)  # a data module may use random numbers
    task = checkpoint.load(path, trust=cfg.trust)
    if not isinstance(task, ExportableTask):
        raise UserError(f"{path}: {type(task).__name__} has no exportable(); expected a task that defines it")
    model = task.exportable()
    data = build.data(config)
    if data is not None:
        data.prepare_data()
        data.setup("test")
    content = exporting.export(model, cfg.format)
    compared = exporting.compare(content, cfg.format, model, inputs.split_loader("test", task, data))
    source = {"checkpoint": str(path), **environment()}
    written = write_results(Path(cfg.output_dir), {exporting.FILES[cfg.format]: content}, source)
    terminal.show_export(model, compared, written)


def main() -> None:
    start.run(export, "export")


if __name__ == "__main__":
    main()
