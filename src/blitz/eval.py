"""blitz-eval: the test figures of a trained model, from its checkpoint alone."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from blitz import cli


def evaluate(cfg: DictConfig) -> None:
    """Test the model of ``cfg.run`` or ``cfg.checkpoint`` on the data and with the batch size of its run."""
    from blitz import build, report, runs

    path = runs.checkpoint_file(cfg.run or cfg.checkpoint)
    config = runs.read_checkpoint(path)["config"]
    task = runs.load(path)
    settings = OmegaConf.create(config)
    settings.device = cfg.device
    settings.trainer.update(cfg.trainer)
    settings.callback, settings.logger = {}, {}
    if cfg.data_root:
        settings.data.root = cfg.data_root
    build.tune(task.net, settings)
    trainer = build.trainer(settings)
    data = build.data(settings)
    build.ready(data, trainer, "test")
    trainer.test(task, data, verbose=False)
    if trainer.is_global_zero:
        result = runs.begin(Path(cfg.output_dir), build.plain(settings), [f"checkpoint={path}"])
        runs.finish(result, trainer.callback_metrics, data.classes, task.confusion["test"])
        report.end(result, data.classes, task.confusion["test"])


def main() -> None:
    cli.run(evaluate, "eval")


if __name__ == "__main__":
    main()
