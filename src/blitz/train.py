"""blitz-train: compose, train, test, and write down how it went."""

from pathlib import Path

from omegaconf import DictConfig

from blitz import cli


def train(cfg: DictConfig) -> float | None:
    """One run, in ``cfg.run_dir``; returns the final value of ``cfg.optimized_metric``."""
    # Imported here, so that --help, tab completion and a wrong word on the command line do not wait for torch.
    from hydra.core.hydra_config import HydraConfig
    from lightning import seed_everything

    from blitz import build, report, resume, runs

    config = build.plain(cfg)
    build.check(config)
    seed_everything(cfg.seed, verbose=False)
    run = runs.Run(Path(cfg.run_dir))
    trainer = build.trainer(cfg)
    task = build.task(cfg)
    if cfg.resume and cfg.threads is None:
        build.keep_threads(run.environment, trainer)
    weights = runs.start_from(task, cfg.init_from) if cfg.init_from and not run.saved else None
    if trainer.global_rank:  # all have built one network; dropout is their own
        seed_everything(cfg.seed + trainer.global_rank, verbose=False)
    data = build.data(cfg)
    build.ready(data, trainer, "fit", "test")
    build.check_metrics(cfg, task, data)

    newest = None
    if trainer.is_global_zero:
        words = HydraConfig.get().overrides.task
        facts = build.facts(cfg, trainer, data)
        if cfg.resume:
            newest = resume.go_on(run, trainer, config, words, facts)
        else:
            runs.begin(run.path, config, words, **facts, init_from=weights, reproduces=cfg.reproduce)
        report.start(run.path, cfg, task, data, trainer, newest)
        for logger in trainer.loggers:
            logger.log_hyperparams(build.hparams(cfg))
    trainer.fit(task, data, ckpt_path=trainer.strategy.broadcast(newest and newest.path))
    metrics = dict(trainer.callback_metrics)
    trainer.test(task, data, ckpt_path=trainer.strategy.broadcast(run.checkpoint()), verbose=False)
    metrics |= trainer.callback_metrics
    if trainer.is_global_zero:
        runs.finish(run, metrics, data.classes, task.confusion["test"])
        report.end(run, data.classes, task.confusion["test"])
        if cfg.reproduce:
            report.verdict(runs.Run(Path(cfg.reproduce)), run)
    return None if cfg.optimized_metric is None else float(metrics[cfg.optimized_metric])


def main() -> None:
    cli.run(train, "train")


if __name__ == "__main__":
    main()
