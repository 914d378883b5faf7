"""blitz-train: compose a config, train, test, and record the results."""

from pathlib import Path

from omegaconf import DictConfig

from blitz.cli import app


def train(cfg: DictConfig) -> float | None:
    """Run one job in ``cfg.run_dir``. Return the final value of ``cfg.optimized_metric``."""
    # Imported here, so that --help, tab completion and a wrong override do not wait for torch.
    from hydra.core.hydra_config import HydraConfig
    from lightning import seed_everything

    from blitz import terminal
    from blitz.config.checks import check_arguments
    from blitz.runs import checkpoint, folder, reproduce, resume
    from blitz.runs.report import Report
    from blitz.training import build
    from blitz.training.tune import tune

    check_arguments(cfg)
    config = build.resolve(cfg)
    seed_everything(cfg.seed, verbose=False)
    run = folder.Run(Path(cfg.run_dir))
    trainer = build.trainer(config)
    task = build.task(config)
    tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")
    if cfg.resume and cfg.threads is None:
        build.keep_threads(run.environment, trainer)
    initial = checkpoint.initialize_from(task, cfg.init_from) if cfg.init_from and not run.saved else None
    if trainer.global_rank:  # every rank has built the same network; dropout differs between ranks
        seed_everything(cfg.seed + trainer.global_rank, verbose=False)
    data = build.data(config)
    build.setup_data(data, trainer, "fit", "test")
    build.check_metrics(config, task, data)

    resumed = None
    if trainer.is_global_zero:
        overrides = HydraConfig.get().overrides.task
        metadata = build.metadata(cfg, trainer, data)
        if cfg.resume:
            resumed = resume.restore(run, trainer, config, overrides, metadata)
        else:
            folder.create_run(run.path, config, overrides, **metadata, init_from=initial, reproduces=cfg.reproduce)
        terminal.show_start(run.path, config, task, data, trainer, resumed)
        for logger in trainer.loggers:
            logger.log_hyperparams(build.hparams(cfg))
    trainer.fit(task, data, ckpt_path=trainer.strategy.broadcast(resumed and resumed.path))
    metrics = dict(trainer.callback_metrics)
    trainer.test(task, data, ckpt_path=trainer.strategy.broadcast(run.checkpoint()), verbose=False)
    metrics |= trainer.callback_metrics
    if trainer.is_global_zero:
        report: Report = task.report("test")  # type: ignore[operator]
        folder.finish_run(run, metrics, report)
        terminal.show_end(run, report)
        if cfg.reproduce:
            terminal.show_comparison(reproduce.compare(folder.Run(Path(cfg.reproduce)), run))
    return None if cfg.optimized_metric is None else float(metrics[cfg.optimized_metric])


def main() -> None:
    app.run(train, "train")


if __name__ == "__main__":
    main()
