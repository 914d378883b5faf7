"""Cache files for tensors that take long to make, valid until their sources change."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """Return a digest of the files' names below ``root``, sizes and modification times. The contents are not read."""
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        stat = os.stat(path)  # noqa: PTH116  60,000 Path objects would take longer than this
        digest.update(repr((path[len(str(root)) :], stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def load_or_make(directory: Path, kind: str, key: str, make: Callable[[], Tensor]) -> Tensor:
    """Return the cached tensor of this ``kind`` and ``key``. If there is none, return ``make()`` and cache it.

    The new file is complete when it appears, and replaces those of the same kind with other keys. If the directory
    cannot be written, warn and cache nothing.
    """
    path = directory / f"{kind}-{key}.pt"
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # missing or damaged
        made = make()
    try:
        _replace(path, made, outdated=f"{kind}-*.pt")
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{directory} cannot be written ({error}): every run decodes the images again", stacklevel=2)
    return made


def _replace(path: Path, tensor: Tensor, outdated: str) -> None:
    """Save beside the path, delete outdated files to free their disk space, and rename.

    Unlike ``blitz.runs.atomic``, this neither holds a second copy in memory nor waits for the disk: a damaged cache is
    simply made again.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        torch.save(tensor, temporary)
        for file in path.parent.glob(outdated):
            file.unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
