"""Files that are whole or not there: written beside their place, flushed to the disk, and moved into it."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

TEMPORARY = ".tmp"


def write(path: Path, content: bytes | memoryview) -> None:
    """Raises OSError, with ``path`` in it, where it cannot; what stood there before still does."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_names(path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _flush_names(folder: Path) -> None:
    if os.name == "nt":  # which has no such thing
        return
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)


class CheckpointIO(TorchCheckpointIO):
    """Every checkpoint is written so, and holds ``config``, that its model can be rebuilt from it alone.

    Lightning writes in the system's folder for temporary files and moves from there; across two file systems that is a
    copy, and a process killed in it leaves a half.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save({**checkpoint, "config": self.config}, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(Path(path), content.getbuffer())
