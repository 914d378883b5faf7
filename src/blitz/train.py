"""blitz-train: compose a config, train, test, and record the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blitz.cli import start

if TYPE_CHECKING:
    from lightning import Trainer
    from omegaconf import DictConfig

    from blitz.runs.folder import Run
    from blitz.runs.report import Report


def train(cfg: "DictConfig") -> float | None:
    """Run one job in ``cfg.run_dir``. Return ``cfg.optimized_metric`` of the tested checkpoint."""
    # Imported here, so that --help, tab completion and a wrong override do not wait for torch.
    from lightning import seed_everything

    from blitz import terminal
    from blitz.config.checks import check_arguments, check_used
    from blitz.config.instantiate import without_pretrained_weights
    from blitz.runs import checkpoint
    from blitz.runs.folder import Run
    from blitz.training import build, results
    from blitz.training.rehearsal import rehearse
    from blitz.training.stages import has_stage
    from blitz.training.tune import tune

    terminal.silence_lightning()
    check_arguments(cfg)
    check_used(cfg)
    config = build.resolve(cfg)
    seed_everything(cfg.seed, verbose=False)
    run = Run(Path(cfg.run_dir))
    trainer = build.trainer(config)
    data = build.data(config)
    task = build.task(without_pretrained_weights(config) if run.saved else config)  # the checkpoint has all weights
    build.setup_data(data, trainer, "fit", *(["test"] if has_stage("test", trainer, task, data) else []))
    rehearsal = rehearse(config, trainer, task, data)
    build.check_metrics(config, task, rehearsal)
    if not (cfg.resume or cfg.reproduce):  # runs of earlier versions keep their schedule
        build.check_schedule(config, rehearsal.optimizers)
    tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")  # threads, memory format, compile: speed only
    if cfg.resume and cfg.threads is None:
        build.keep_threads(run.environment, trainer)
    initial = checkpoint.initialize_from(task, cfg.init_from) if cfg.init_from and not run.saved else None

    resume_from = _record_start(run, cfg, trainer, task, data, initial) if trainer.is_global_zero else None
    trainer.fit(task, data, ckpt_path=trainer.strategy.broadcast(resume_from))
    metrics = dict(trainer.callback_metrics)
    kept = results.checkpoint_to_test(trainer, cfg.optimized_metric, run) if trainer.is_global_zero else None
    kept = trainer.strategy.broadcast(kept)
    metrics |= results.metrics_of_checkpoint(trainer, cfg.optimized_metric, task, data, kept)
    stage = results.evaluate(trainer, task, data, kept)
    metrics |= trainer.callback_metrics
    if trainer.is_global_zero:
        _record_end(run, cfg, metrics, results.report(task, stage, trainer.callback_metrics or metrics), kept, stage)
    results.check_finite(metrics, task, kept)
    return None if cfg.optimized_metric is None else float(metrics[cfg.optimized_metric])


def _record_start(
    run: "Run", cfg: "DictConfig", trainer: "Trainer", task: Any, data: Any, initial: str | None
) -> Path | None:
    """Create or restore the run directory and print the run's settings. Return the checkpoint to resume from."""
    from hydra.core.hydra_config import HydraConfig

    from blitz import terminal
    from blitz.runs import folder, resume
    from blitz.training import build

    config, overrides = build.resolve(cfg), HydraConfig.get().overrides.task
    metadata = build.metadata(cfg, trainer, data)
    resumed = None
    if cfg.resume:
        resumed = resume.restore(run, trainer, config, overrides, metadata)
    else:
        folder.create_run(run.path, config, overrides, **metadata, init_from=initial, reproduces=cfg.reproduce)
    terminal.show_start(run.path, config, task, data, trainer, resumed)
    for logger in trainer.loggers:
        logger.log_hyperparams(build.hparams(cfg))
    return resumed.path if resumed else None


def _record_end(
    run: "Run", cfg: "DictConfig", metrics: "Mapping[str, Any]", report: "Report", kept: Path | None, stage: str
) -> None:
    """Write and print the results of the last stage, and compare them with the run that this one reproduces."""
    from blitz import terminal
    from blitz.runs import folder, reproduce

    folder.finish_run(run, metrics, report)
    metric = cfg.optimized_metric
    terminal.show_last_stage(stage, kept, {} if metric is None else {metric: float(metrics[metric])})
    terminal.show_end(run, report)
    if cfg.reproduce:
        terminal.show_comparison(reproduce.compare(folder.Run(Path(cfg.reproduce)), run))


def main() -> None:
    start.run(train, "train")


if __name__ == "__main__":
    main()
