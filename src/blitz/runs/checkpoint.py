"""Checkpoints: written atomically, verified when read, and enough to rebuild the model."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from blitz.config.instantiate import instantiate
from blitz.errors import UserError
from blitz.runs.atomic import write_atomically
from blitz.runs.compatibility import upgrade_config
from blitz.runs.folder import Run


class CheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, with the run's config, so that a checkpoint alone can rebuild its model.

    Lightning writes to the system's directory for temporary files and moves the file from there. Between two file
    systems this is a copy, and a process that is killed meanwhile leaves an incomplete file.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save({**checkpoint, "config": self.config}, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getbuffer())


def checkpoint_file(run_or_checkpoint: str | Path) -> Path:
    """Return the best or last checkpoint of a run directory. The path of a checkpoint is returned unchanged.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(run_or_checkpoint).expanduser()
    if path.is_dir():
        best = Run(path).checkpoint()
        if best is None:
            raise UserError(f"{path}: no checkpoints/best.ckpt or last.ckpt in it; expected a run directory")
        return best
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    return path


def read_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the checkpoint, with its config in the current layout.

    Raises:
        UserError: the file is not a checkpoint of blitz, or it is damaged.
    """
    try:
        if damaged := zipfile.ZipFile(path).testzip():  # torch.load does not compare checksums
            raise ValueError(damaged)
        checkpoint = dict(torch.load(path, map_location=map_location, weights_only=True))
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error
    if not {"state_dict", "config"} <= checkpoint.keys():
        raise UserError(f"{path}: not a checkpoint of blitz; expected one that holds the config of its run")
    return checkpoint | {"config": upgrade_config(checkpoint["config"])}


def load(run_or_checkpoint: str | Path, map_location: str | torch.device = "cpu") -> LightningModule:
    """Return the trained task in eval mode: ``task.classes[task(task.transform(image)).argmax(1)]``.

    The checkpoint alone is enough. It names the classes to instantiate, so load only files that you trust.

    Raises:
        UserError: there is no checkpoint, the file is not one of blitz, or its weights do not fit its network.
    """
    path = checkpoint_file(run_or_checkpoint)
    checkpoint = read_checkpoint(path, map_location)
    task: LightningModule = instantiate(checkpoint["config"]["task"])
    _load_weights(task, checkpoint, str(path))
    return task.to(map_location).eval()


def initialize_from(task: LightningModule, run_or_checkpoint: str | Path) -> str:
    """Load the weights of a checkpoint into ``task``. Return the SHA-256 of the file.

    Raises:
        UserError: there is no checkpoint, or its weights do not fit.
    """
    path = checkpoint_file(run_or_checkpoint)
    _load_weights(task, read_checkpoint(path), f"init_from={path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(task: LightningModule, checkpoint: dict[str, Any], source: str) -> None:
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        net = type(getattr(task, "net", task)).__name__
        raise UserError(f"{source}: its weights do not fit {net} ({reason})") from error
