"""What a run's folder is: begin one, finish one, open one, and load its model without Hydra.

============================  =================================================================
config.yaml                   the composed config, every interpolation resolved, the seed drawn
overrides.yaml                what the command line said
environment.json              command, versions of the packages, machine, git commit, checksums of the data
git.diff                      what differed from that commit, where something did
checkpoints/                  best.ckpt by the monitored metric; last.ckpt to go on from, and previous.ckpt
events.out.tfevents...        TensorBoard
per_class.csv, confusion.csv  the test images by class, counted
metrics.json                  the final figures: a run is finished when it is there
error.txt                     the traceback of a run that failed
============================  =================================================================
"""

import csv
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from blitz import atomic
from blitz.callback.last_checkpoint import LAST, PREVIOUS
from blitz.config import PROJECT, word
from blitz.data._transforms import Transform
from blitz.task.classify import Classify

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "tensorboard",
    "numpy",
    "blitz",
)
RESUMABLE = (LAST, PREVIOUS)


@dataclass(frozen=True)
class Run:
    """A run's folder, as it stands."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")))

    @property
    def overrides(self) -> list[str]:
        file = self.path / "overrides.yaml"
        return list(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.exists() else []

    @property
    def environment(self) -> dict[str, Any]:
        file = self.path / "environment.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @property
    def metrics(self) -> dict[str, float | None] | None:
        """The final figures under their logged names, None for a class without images; no dict before the end."""
        file = self.path / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    @property
    def saved(self) -> bool:
        """Whether there is a checkpoint to go on from; a run without one begins again, with the same weights."""
        return any((self.path / "checkpoints" / name).exists() for name in RESUMABLE)

    def checkpoint(self) -> Path | None:
        """The checkpoint that stands for the run: the best by the monitored metric, or the last where none is."""
        found = (self.path / "checkpoints" / name for name in ("best.ckpt", *RESUMABLE))
        return next((path for path in found if path.exists()), None)


def begin(path: Path, config: Mapping[str, Any], overrides: Sequence[str], **facts: Any) -> Run:
    """Claim a folder and write down what is about to run; ``facts`` go into environment.json.

    Raises:
        ValueError: the folder holds a run already.
    """
    if (path / "config.yaml").exists():
        raise ValueError(
            f"{path} holds a run already, and runs are never overwritten: choose another hydra.run.dir, or go on with "
            f"it: {word('resume', path)}"
        )
    texts = {
        "overrides.yaml": as_yaml(list(overrides)),
        "environment.json": as_json(environment() | facts),
        "git.diff": git("diff", "HEAD", "--binary"),
        "config.yaml": as_yaml(dict(config)),  # the last: with it the folder is a run's
    }
    path.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in texts.items():
            if text:
                atomic.write(path / name, text)
    except OSError:  # a full disk, for one: no half of a run is left
        for name in texts:
            (path / name).unlink(missing_ok=True)
        raise
    return Run(path)


def start_from(task: Classify, run_or_checkpoint: str | Path) -> str:
    """Give ``task`` the weights of a checkpoint, and nothing else of it; gives the file's SHA-256.

    Raises:
        ValueError: there is no checkpoint, or its weights do not fit.
    """
    path = checkpoint_file(run_or_checkpoint)
    try:
        task.load_state_dict(read_checkpoint(path)["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"init_from={path}: its weights do not fit {type(task.net).__name__} ({reason})") from error
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finish(run: Run, metrics: Mapping[str, Tensor], classes: Sequence[str], confusion: Tensor) -> None:
    """Write the final figures; ``confusion``, int ``(classes, classes)``, has a row for each true class."""
    rows = list(zip(classes, confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True))
    figures: dict[str, float | None] = {key: float(value) for key, value in metrics.items()}
    figures |= {f"test/acc/{name}": None for name, count, _ in rows if not count}
    tables = {
        "per_class.csv": [
            ["class", "count", "correct", "accuracy"],
            *([name, count, correct, correct / count if count else "n/a"] for name, count, correct in rows),
        ],
        "confusion.csv": [
            ["true", *classes],
            *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True)),
        ],
    }
    for name, table in tables.items():
        with (run.path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    atomic.write(run.path / "metrics.json", as_json(dict(sorted(figures.items()))))  # it says that the run is finished


def load(run_or_checkpoint: str | Path, map_location: str | torch.device = "cpu") -> Classify:
    """The trained task, in eval mode: ``task.classes[task(task.transform(image)).argmax(1)]``.

    It is rebuilt from the checkpoint alone, without Hydra. Load only what you trust: it names the class to make.

    Raises:
        ValueError: there is no checkpoint, the file is not one of blitz's, or its weights do not fit its network.
    """
    path = checkpoint_file(run_or_checkpoint)
    checkpoint = read_checkpoint(path, map_location)
    config = checkpoint["config"]
    data = config["data"]
    transform = Transform(data["channels"], data["image_size"], data["fit"], data["mean"], data["std"])
    task = _locate(config["task"]["_target_"])(
        net=_make(config["model"]),
        classes=data["classes"],
        transform=transform,
        **{key: value for key, value in config["task"].items() if not key.startswith("_")},
    )
    assert isinstance(task, Classify)
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its weights do not fit {config['model']['_target_']} ({' '.join(str(error).split())[:200]})"
        ) from error
    return task.to(map_location).eval()


def checkpoint_file(run_or_checkpoint: str | Path) -> Path:
    """The checkpoint that a run's folder or a file's name stands for."""
    path = Path(run_or_checkpoint).expanduser()
    if path.is_dir():
        best = Run(path).checkpoint()
        if best is None:
            raise ValueError(f"{path}: no checkpoints/best.ckpt or last.ckpt in it; is it a run's folder?")
        return best
    if not path.exists():
        raise ValueError(f"{path}: no such run or checkpoint")
    return path


def read_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """What is in the file, or a ValueError."""
    try:
        if torn := zipfile.ZipFile(path).testzip():  # torch looks at no checksum
            raise ValueError(torn)
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        if {"state_dict", "config"} <= checkpoint.keys():
            return dict(checkpoint)
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error
    raise ValueError(f"{path}: not a checkpoint of blitz: it holds no config beside its weights")


def _make(spec: Any) -> Any:
    """What Hydra's ``instantiate`` makes of a model's config."""
    if isinstance(spec, list):
        return [_make(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    arguments = {key: _make(value) for key, value in spec.items() if not key.startswith("_")}
    if "_target_" not in spec:
        return arguments
    target = _locate(spec["_target_"])
    positional = _make(spec.get("_args_", []))
    if spec.get("_partial_"):
        return partial(target, *positional, **arguments)
    return target(*positional, **arguments)


def _locate(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD").decode().strip() or None,
        "git_status": git("status", "--porcelain").decode(errors="replace").splitlines(),
    }


def git(*arguments: str) -> bytes:
    """What git says of the project, or nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
