"""Records of runs that never ran: as much of a config as a comparison needs."""

import json
import os
from pathlib import Path
from typing import Any

from blitz.runs.folder import as_json, as_yaml

ARGUMENTS = {"sgd": {"_target_": "torch.optim.SGD", "momentum": 0.9}, "adam": {"_target_": "torch.optim.Adam"}}


def record_run(
    path: Path,
    optimizer: str = "sgd",
    lr: float = 0.1,
    seed: int = 1,
    metrics: dict[str, float | None] | None = None,
    metric: str | None = "val/acc",
    direction: str = "max",
    overrides: tuple[str, ...] = (),
    progress: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    started: float | None = None,
    **config: Any,
) -> Path:
    """Write a run directory. It is done if ``metrics`` is given."""
    torch_optimizer = {**ARGUMENTS[optimizer], "_partial_": True, "lr": lr}
    content = {
        "seed": seed, "run_dir": str(path), "optimized_metric": metric, "direction": direction, "threads": None,
        "data": {"_target_": "blitz.data.digits.Digits", "seed": seed, "root": "data", "classes": ["0", "1"]},
        "optimizer": torch_optimizer, "trainer": {"max_epochs": 2, "default_root_dir": str(path)},
        "schedule": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": lr},
        "task": {"_target_": "blitz.task.classify.Classify", "optimizer": torch_optimizer}, "device": {}, **config,
    }  # fmt: skip
    references = {"task.optimizer": "${optimizer}", "data.seed": "${seed}", "schedule.max_lr": "${optimizer.lr}"}
    files = {
        "config.yaml": as_yaml(content),
        "overrides.yaml": as_yaml([f"optimizer={optimizer}", f"optimizer.lr={lr}", f"seed={seed}", *overrides]),
        "environment.json": as_json({"references": references}),
        "metrics.json": None if metrics is None else json.dumps(metrics).encode(),
        "progress.json": progress and as_json(progress),
        "status.json": status and as_json(status),
    }
    path.mkdir(parents=True)
    for name, data in files.items():
        if data is not None:
            (path / name).write_bytes(data)
            if started is not None:
                os.utime(path / name, (started, started))
    return path
