"""blitz-predict: apply a trained model to images or to a split of its data set."""

from pathlib import Path
from typing import TYPE_CHECKING

from blitz.cli import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def predict(cfg: "DictConfig") -> None:
    """Write the predictions of the model of ``cfg.run`` or ``cfg.checkpoint`` for ``cfg.inputs``.

    Raises:
        UserError: a file cannot be read. The predictions for the other files are written before.
    """
    from lightning import seed_everything

    from blitz import terminal
    from blitz.errors import UserError
    from blitz.runs import checkpoint
    from blitz.runs.folder import refuse_results, write_results
    from blitz.runs.metadata import environment
    from blitz.training import build, inputs, predictions
    from blitz.training.recorded import recorded_config
    from blitz.training.tune import tune

    terminal.silence_lightning()
    refuse_results(Path(cfg.output_dir))
    path = checkpoint.checkpoint_file(cfg.run or cfg.checkpoint)
    is_split = cfg.inputs in inputs.SPLITS
    config = recorded_config(cfg, path, "trainer", *(["data"] if is_split else []))
    config["trainer"] |= {"fast_dev_run": False, "limit_predict_batches": 1.0}  # a quick check may have set them
    seed_everything(config["seed"], verbose=False)  # a data module may use random numbers
    task = checkpoint.load(path, trust=cfg.trust)
    files = None if is_split else inputs.file_batches(cfg.inputs, task, config["data"].get("eval_batch_size"))
    trainer = build.trainer(config)
    predictions.check_one_process(trainer)
    tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")
    if files is None:
        data = build.data(config)
        build.setup_data(data, trainer, inputs.SPLITS[cfg.inputs])
        batches, names = inputs.split_loader(cfg.inputs, task, data), None
    else:
        batches, names = files, files.names

    table = predictions.Table(cfg.format)
    with terminal.progress("predicted", inputs.num_samples(batches)) as advance:
        collector = predictions.predict(trainer, task, batches, table, names, cfg.grid or terminal.SHOWN, advance)
    skipped = files.skipped if files else []
    if not table.number:
        raise UserError(inputs.describe_failure(cfg.inputs, skipped))
    report = collector.report(task)
    results = {f"predictions.{cfg.format}": table.content(), **(report.files if cfg.grid else {})}
    source = {"checkpoint": str(path), "inputs": cfg.inputs, **environment()}
    written = write_results(Path(cfg.output_dir), results, source)
    terminal.show_predictions(collector.shown if files else [], report, table.number, skipped, written)
    if skipped:
        raise UserError(
            f"inputs={cfg.inputs}: {len(skipped):,} of {len(skipped) + table.number:,} files could not be read; "
            "the predictions for the others are written"
        )


def main() -> None:
    start.run(predict, "predict")


if __name__ == "__main__":
    main()
