"""blitz-eval: compute the test metrics of a trained model from its checkpoint alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from blitz.cli import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def evaluate(cfg: "DictConfig") -> None:
    """Test the model of ``cfg.run`` or ``cfg.checkpoint`` on the data and with the batch size of its run."""
    from omegaconf import OmegaConf

    from blitz import terminal
    from blitz.config.trust import check_trusted
    from blitz.runs import checkpoint, folder
    from blitz.runs.report import Report
    from blitz.training import build, results
    from blitz.training.tune import tune

    terminal.silence_lightning()
    path = checkpoint.checkpoint_file(cfg.run or cfg.checkpoint)
    config = build.resolve(OmegaConf.create({"trainer": cfg.trainer, "device": cfg.device}))
    recorded = checkpoint.read_checkpoint(path)["config"]
    if not cfg.trust:
        check_trusted({key: recorded[key] for key in ("data", "trainer")}, "config", path)
    config = recorded | {
        "device": config["device"],
        "trainer": recorded["trainer"] | config["trainer"],
        "data": recorded["data"] | ({"root": cfg.data_root} if cfg.data_root else {}),
        "callback": {},
        "logger": {},
    }
    trainer = build.trainer(config)
    task = checkpoint.load(path, trust=cfg.trust)
    tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")
    data = build.data(config)
    build.setup_data(data, trainer, "test")
    trainer.test(task, data, verbose=False)
    if trainer.is_global_zero:
        run = folder.create_run(Path(cfg.output_dir), config, [f"checkpoint={path}"])
        report: Report = task.report("test")  # type: ignore[operator]
        folder.finish_run(run, trainer.callback_metrics, report)
        terminal.show_end(run, report)
        results.check_finite(trainer.callback_metrics, task, path)


def main() -> None:
    start.run(evaluate, "eval")


if __name__ == "__main__":
    main()
