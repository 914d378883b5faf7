"""Checkpoints: written atomically, verified when read, and enough to rebuild the model."""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from blitz.config.instantiate import instantiate, without_pretrained_weights
from blitz.config.trust import check_trusted
from blitz.errors import UserError
from blitz.runs.atomic import write_atomically
from blitz.runs.compatibility import upgrade_config
from blitz.runs.folder import RESUMABLE, Run

OF_LOSS = "loss."  # tensors of a task's loss, such as class weights: a run that starts with other weights has its own


class CheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically and verify them when they are read.

    Add the run's config, so that a checkpoint alone can rebuild its model, and the current metrics.

    Lightning writes to the system's directory for temporary files and moves the file from there. Between two file
    systems this is a copy, and a process that is killed meanwhile leaves an incomplete file.
    """

    def __init__(self, config: dict[str, Any], metrics: Callable[[], Mapping[str, SupportsFloat]]) -> None:
        self.config = config
        self.metrics = metrics

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        metrics = {name: float(value) for name, value in self.metrics().items()}
        content = serialize({**checkpoint, "config": self.config, "metrics": metrics})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getbuffer())

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def serialize(checkpoint: Mapping[str, Any]) -> io.BytesIO:
    """Return a checkpoint as bytes that ``read_checkpoint`` can read.

    Raises:
        UserError: it holds an object that ``torch.load`` refuses; the message names the callback that saved it.
    """
    content = io.BytesIO()
    try:
        _save_readable(checkpoint, content)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        kind = re.search(r"GLOBAL ([\w.]+) was not", reason)
        found = kind[1] if kind else f"{type(error).__name__}: {reason[:200]}"
        raise UserError(
            f"{_unreadable(checkpoint)}: a checkpoint with its state could not be loaded again ({found}); "
            "expected a state_dict of tensors, numbers, text, and lists, tuples and dicts of them"
        ) from error
    return content


def _save_readable(value: Any, content: io.BytesIO) -> None:
    torch.save(value, content)
    content.seek(0)
    torch.load(content, weights_only=True, map_location="meta")  # the meta device copies no tensor
    content.seek(0)


def _unreadable(checkpoint: Mapping[str, Any]) -> str:
    """Return the callback, or the key of the checkpoint, whose state ``torch.load`` refuses."""
    for key, state in [*checkpoint.get("callbacks", {}).items(), *checkpoint.items()]:
        try:
            _save_readable(state, io.BytesIO())
        except Exception:
            return f"callback {key}" if key in checkpoint.get("callbacks", {}) else f"{key!r} of the checkpoint"
    return "the checkpoint"


def checkpoint_file(run_or_checkpoint: str | Path) -> Path:
    """Return the best or last checkpoint of a run directory. The path of a checkpoint is returned unchanged.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(run_or_checkpoint).expanduser()
    if path.is_dir():
        return best_or_last_checkpoint(Run(path))
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint; expected a run directory or a checkpoint file")
    return path


def best_or_last_checkpoint(run: Run) -> Path:
    """Return the best checkpoint by the monitored metric, or the last one if no metric is monitored.

    Raises:
        UserError: there is no checkpoint, or the best one is missing.
    """
    for path in run.resumable:
        last: dict[str, Any] = {}
        with suppress(UserError):  # there is none, or it is damaged
            last = read_checkpoint(path)
        if "callbacks" in last:  # absent if another program saved only weights under this name
            best = best_checkpoint(last["callbacks"].values(), last["config"]["optimized_metric"])
            directory = last.get("resume", {}).get("folder", run.checkpoints)  # path at the time of saving
            return (
                require_file(Path(os.path.normpath(run.checkpoints / os.path.relpath(best, directory))))
                if best
                else path
            )
    files = sorted(run.checkpoints.glob("*.ckpt"))
    if len(files) == 1:
        return files[0]
    choices = (
        f"expected checkpoint=FILE with one of {', '.join(map(str, files))}" if files else "expected a run directory"
    )
    raise UserError(f"{run.path}: no intact {' or '.join(RESUMABLE)} in {run.checkpoints.name}/; {choices}")


def require_file(best: Path) -> Path:
    """Return ``best`` unchanged.

    Raises:
        UserError: the file does not exist; the message lists other checkpoints beside it.
    """
    if not best.exists():
        others = ", ".join(str(path) for path in sorted(best.parent.glob("*.ckpt"))) or "none"
        raise UserError(f"{best}: the best checkpoint is missing; expected it there; other checkpoints: {others}")
    return best


def best_checkpoint(callback_states: Iterable[Mapping[str, Any]], metric: str | None) -> str:
    """Return the path of the best checkpoint by ``metric``. If no callback monitors it, use another monitored metric.

    Args:
        callback_states: the states of a run's callbacks. ModelCheckpoint's holds ``monitor`` and ``best_model_path``.

    Returns:
        An empty string if no callback has saved a best checkpoint.
    """
    states = [state for state in callback_states if state.get("monitor") and state.get("best_model_path")]
    states.sort(key=lambda state: state["monitor"] != metric)
    return str(states[0]["best_model_path"]) if states else ""


def read_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the checkpoint, with its config in the current layout.

    Raises:
        UserError: the file is not a checkpoint of blitz, or it is damaged.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block forever
        raise UserError(f"{path}: not a regular file; expected a checkpoint")
    try:
        if damaged := zipfile.ZipFile(path).testzip():  # torch.load does not compare checksums
            raise ValueError(damaged)
        checkpoint = dict(torch.load(path, map_location=map_location, weights_only=True))
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error
    if not {"state_dict", "config"} <= checkpoint.keys():
        raise UserError(f"{path}: not a checkpoint of blitz; expected one that holds the config of its run")
    return checkpoint | {"config": upgrade_config(checkpoint["config"])}


def load(
    run_or_checkpoint: str | Path, map_location: str | torch.device = "cpu", *, trust: bool = False
) -> LightningModule:
    """Return the trained task in eval mode: ``task.classes[task(task.transform(image)).argmax(1)]``.

    The checkpoint alone is enough. Networks of torchvision and timm that were built with pretrained weights are built
    without them, because the checkpoint holds all weights.

    Args:
        trust: let the checkpoint call any code, not only that of ``config.trust.PACKAGES`` and this project.

    Raises:
        UserError: there is no checkpoint, the file is not one of blitz, it names code that is not trusted, or its
            weights do not fit its network.
    """
    path = checkpoint_file(run_or_checkpoint)
    checkpoint = read_checkpoint(path, map_location)
    if not trust:
        check_trusted(checkpoint["config"]["task"], "task", path)
    task: LightningModule = instantiate(without_pretrained_weights(checkpoint["config"]["task"]))
    _load_weights(task, checkpoint, str(path))
    return task.to(map_location).eval()


def initialize_from(task: LightningModule, run_or_checkpoint: str | Path) -> str:
    """Load the weights of a checkpoint into ``task``. Return the SHA-256 of the file.

    Raises:
        UserError: there is no checkpoint, or its weights do not fit.
    """
    path = checkpoint_file(run_or_checkpoint)
    checkpoint = read_checkpoint(path)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith(OF_LOSS)}
    weights |= {name: value for name, value in task.state_dict().items() if name.startswith(OF_LOSS)}
    _load_weights(task, {"state_dict": weights}, f"init_from={path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(task: LightningModule, checkpoint: dict[str, Any], source: str) -> None:
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        net = type(getattr(task, "net", task)).__name__
        raise UserError(f"{source}: its weights do not fit {net} ({reason})") from error
