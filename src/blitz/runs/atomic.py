"""Atomic writes: a file has either its previous content or all of its new content, whenever the process is killed."""

import os
from pathlib import Path

TEMPORARY = ".tmp"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the file, flush to disk, and rename.

    Raises:
        OSError: with ``path`` as its file name. The previous content is still there.
    """
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
        _sync_directory(path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _sync_directory(path: Path) -> None:
    """Flush the names in a directory, so that a rename survives a power cut. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
