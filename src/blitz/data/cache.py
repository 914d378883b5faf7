"""Cache files for tensors that take long to make, valid until their sources change."""

import contextlib
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """Return a digest of the files' names below ``root``, sizes, mtimes and ctimes. The contents are not read.

    The ctime reveals a file that was replaced by another one of the same size and mtime.
    """
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        stat = os.stat(path)  # noqa: PTH116  60,000 Path objects would take longer than this
        entry = (path[len(str(root)) :], stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def load_or_make(directory: Path, kind: str, key: str, shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
    """Return the cached tensor of this ``kind`` and ``key``. If there is none, return ``make()`` and cache it.

    The tensor is uint8. A cached file that is damaged, or that has another key or ``shape``, is replaced.
    The new file is complete when it appears, and replaces those of the same kind with other keys. If the directory
    cannot be written, warn and cache nothing.
    """
    path = directory / f"{kind}-{key}.pt"
    cached = _load(path, shape)
    if cached is not None:
        return cached
    made = make()
    try:
        _replace(path, made, outdated=f"{kind}-*.pt")
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{directory} cannot be written ({error}): every run reads all images again", stacklevel=1)
    return made


def _load(path: Path, shape: Sequence[int]) -> Tensor | None:
    """Return the tensor in a cache file. Return None if the file is missing, damaged or not what its name says."""
    if not path.is_file():  # torch.load would wait for a FIFO
        return None
    try:
        content = torch.load(path, weights_only=True)
        if not isinstance(content, dict):  # until 2026-11 the file held the tensor alone
            return None
        tensor: Tensor = content["tensor"]
        intact = (content["name"], tensor.dtype, tuple(tensor.shape)) == (path.name, torch.uint8, tuple(shape))
        return tensor if intact and content["crc32"] == _crc32(tensor) else None
    except Exception:  # torch.load raises many kinds of exceptions
        return None


def _crc32(tensor: Tensor) -> int:
    """Return a checksum that reveals damage. Computing it makes loading 25 % slower."""
    return zlib.crc32(tensor.numpy().data)


def _replace(path: Path, tensor: Tensor, outdated: str) -> None:
    """Save beside the path, delete outdated files to free their disk space, and rename.

    Unlike ``blitz.runs.atomic``, this neither holds a second copy in memory nor waits for the disk: a damaged cache is
    simply made again.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        torch.save({"name": path.name, "crc32": _crc32(tensor), "tensor": tensor}, temporary)
        for file in path.parent.glob(outdated):
            file.unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
