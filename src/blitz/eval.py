"""blitz-eval: compute the test or validation metrics of a trained model from its checkpoint alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from blitz.cli import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def evaluate(cfg: "DictConfig") -> None:
    """Evaluate the model of ``cfg.run`` or ``cfg.checkpoint`` on the data and with the batch size of its run."""
    from lightning import seed_everything

    from blitz import terminal
    from blitz.errors import UserError
    from blitz.runs import checkpoint, folder
    from blitz.training import build, results
    from blitz.training.recorded import recorded_config
    from blitz.training.stages import has_stage
    from blitz.training.tune import tune

    terminal.silence_lightning()
    path = checkpoint.checkpoint_file(cfg.run or cfg.checkpoint)
    config = recorded_config(cfg, path, "data", "trainer")
    seed_everything(config["seed"], verbose=False)  # a data module may use random numbers
    trainer = build.trainer(config)
    data = build.data(config)
    task = checkpoint.load(path, trust=cfg.trust)
    tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")
    if not has_stage(cfg.stage, trainer, task, data):
        other = "test" if cfg.stage == "val" else "val"
        raise UserError(
            f"stage={cfg.stage}: {type(task).__name__} or its data has no such stage; expected stage={other}"
        )
    build.setup_data(data, trainer, {"val": "validate", "test": "test"}[cfg.stage])
    run_stage = trainer.validate if cfg.stage == "val" else trainer.test
    run_stage(task, data, verbose=False)
    if cfg.stage == "val" and not any(trainer.num_val_batches):
        raise UserError("stage=val: there is no validation data; expected stage=test")
    if trainer.is_global_zero:
        run = folder.create_run(Path(cfg.output_dir), config, [f"checkpoint={path}"])
        report = results.report(task, cfg.stage, trainer.callback_metrics)
        folder.finish_run(run, trainer.callback_metrics, report)
        terminal.show_end(run, report)
        results.check_finite(trainer.callback_metrics, task, path)


def main() -> None:
    start.run(evaluate, "eval")


if __name__ == "__main__":
    main()
