"""A tensor that takes long to make, kept in a file until what it was made of changes."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """A digest of the files' names below ``root``, sizes and times of change; their contents are not read."""
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        stat = os.stat(path)  # noqa: PTH116  a Path of each of 60,000 would take longer than this
        digest.update(repr((path[len(str(root)) :], stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def tensor(folder: Path, kind: str, key: str, make: Callable[[], Tensor]) -> Tensor:
    """``make()``, or what it gave last time for this ``kind`` and ``key``.

    The file appears whole or not at all, and takes the place of those of the same kind and other keys. Where the folder
    cannot be written a warning says so, and nothing is kept.
    """
    path = folder / f"{kind}-{key}.pt"
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # not there, or damaged: made anew
        made = make()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(exist_ok=True)
        torch.save(made, temporary)
        for stale in folder.glob(f"{kind}-*.pt"):
            stale.unlink(missing_ok=True)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        warnings.warn(f"{folder} cannot be written ({error}): the images are decoded again in every run", stacklevel=2)
    return made
