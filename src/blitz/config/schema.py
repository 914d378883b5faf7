"""What a config may be, checked before torch is imported: a wrong word is answered in under a second."""

import hashlib
import math
import os
import random
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

PROJECT = Path(__file__).resolve().parents[2]
AUTO = "auto"  # resume=auto: go on where there is a run, start one where there is none


@dataclass
class TrainConfig:
    """The top level of ``configs/train.yaml``; the groups' own keys are checked against what they configure."""

    resume: str | None = None
    init_from: str | None = None
    reproduce: str | None = None
    seed: int | None = None
    run_dir: str = MISSING
    optimized_metric: str | None = None
    threads: int | None = None
    channels_last: bool | None = None
    compile: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    callback: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvalConfig:
    """The top level of ``configs/eval.yaml``."""

    run: str | None = None
    checkpoint: str | None = None
    data_root: str | None = None
    output_dir: str = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Make the typed top levels and the resolvers of ``configs/`` known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="eval_schema", node=EvalConfig)
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def draw_seed() -> int:
    return random.SystemRandom().randrange(2**32)


def class_folders(root: str) -> list[str]:
    """The classes of an image folder: the names of the folders in ``root/train``, in code-point order."""
    train = Path(root).expanduser() / "train"
    if not train.is_dir():
        raise ValueError(
            f"data.root={root}: no folder {train}; an image folder holds train/<class>/* and test/<class>/*"
        )
    names = sorted(entry.name for entry in train.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"data.root={root}: {train} has no class folders; put images into {train}/<class>/")
    return names


def folder_name(overrides: str) -> str:
    """Overrides as a folder's name: no character that a shell, Hydra's grammar or Windows minds, at most 150 bytes."""
    name = re.sub(r"[^\w.+-]+", "-", overrides).strip("-.") or "defaults"
    if len(name.encode()) > 150:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[:140].decode(errors='ignore')}-{digest}"
    return name


def folder_of(resume: str | None, otherwise: str) -> str:
    """Where Hydra runs a job: in the folder of the run that goes on, or in one of its own."""
    if resume is None:
        return otherwise
    if resume == AUTO:
        raise ValueError("resume=auto goes on in the folder that hydra.run.dir names: add hydra.run.dir=DIR")
    return str(existing("resume", resume))


def sweep_folder(overrides: Sequence[str], otherwise: str) -> str:
    for word in overrides:
        if word.lstrip("+").startswith("resume="):
            raise ValueError(f"{word}: one run goes on, with one command; leave -m out")
    return otherwise


def existing(key: str, run: str) -> Path:
    """The folder of a training run that has begun, absolute.

    Raises:
        ValueError: it is none; ``key`` is who asks.
    """
    path = Path(run).expanduser().absolute()
    if not path.is_dir():
        raise ValueError(f"{key}={run}: no such folder")
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{key}={run}: no config.yaml in it; is it a run's folder?")
    overrides = path / "overrides.yaml"
    if overrides.is_file() and overrides.read_text(encoding="utf-8").startswith("- checkpoint="):
        raise ValueError(f"{key}={run}: the folder of an evaluation, not of a training run")
    return path


def short(path: Path) -> str:
    """The path as one would type it from here."""
    relative = os.path.relpath(path) if path.drive == Path.cwd().drive else str(path)
    return str(path) if relative.startswith("..") else relative


def word(key: str, path: str | Path) -> str:
    """``key=path`` for a command line, quoted for Hydra's grammar and for the shell where either needs it."""
    text = str(path)
    if not re.fullmatch(r"[A-Za-z0-9_./:+-]+", text):
        text = "'" + text.replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={text}")


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "project": lambda: str(PROJECT),
    "len": len,
    "class_folders": class_folders,
    "folder_name": folder_name,
    "folder_of": folder_of,
    "sweep_folder": sweep_folder,
}


def check(cfg: DictConfig) -> None:
    """Refuse what is wrong whatever the groups' targets are. The targets' own arguments are ``build.check``'s."""
    for key, value in leaves(OmegaConf.to_container(cfg)):
        if value == MISSING:
            raise ValueError(f"{key} must be given: add {key}=VALUE")
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=True)):
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{key}=nan is not a number")
    if "checkpoint" in cfg and (cfg.run is None) == (cfg.checkpoint is None):
        raise ValueError("name what to evaluate: run=DIR or checkpoint=FILE")
    _number(cfg, "optimizer.lr", least=0)
    _number(cfg, "data.batch_size", least=1, whole=True)
    _number(cfg, "data.eval_batch_size", least=1, whole=True)
    _number(cfg, "data.val_fraction", least=0, below=1)
    _number(cfg, "threads", least=1, whole=True)
    _number(cfg, "seed", least=0, below=2**32, whole=True)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``(dotted key, value)`` below a tree of plain dicts and lists."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _number(cfg: DictConfig, key: str, least: float, below: float = math.inf, whole: bool = False) -> None:
    value = OmegaConf.select(cfg, key)
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    valid = f"{kind} >= {least}" + (f" and < {below}" if below < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not least <= value < below:
        raise ValueError(f"{key}={value} is not valid: it must be {valid}")
