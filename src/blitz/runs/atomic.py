"""Atomic writes: a file has either its previous content or all of its new content, whenever the process is killed."""

import os
from collections.abc import Mapping
from pathlib import Path

TEMPORARY = ".tmp"


def write_atomically(path: Path, content: bytes | memoryview, sync: bool = True) -> None:
    """Write beside the file, flush to disk, and rename.

    Args:
        sync: wait until the content is on the disk. Without it, a power failure may leave an empty file.

    Raises:
        OSError: with ``path`` as its file name. The previous content is still there.
    """
    write_all({path: content}, sync)


def write_all(contents: Mapping[Path, bytes | memoryview], sync: bool = True) -> None:
    """Write several files. None of them is replaced until all are on the disk.

    Args:
        sync: as in ``write_atomically``.

    Raises:
        OSError: with the path of the file. The previous contents are still there, unless a rename failed.
    """
    temporary = {path: path.with_name(path.name + TEMPORARY) for path in contents}
    path = next(iter(contents))
    try:
        try:
            for path, content in contents.items():
                with temporary[path].open("wb") as file:
                    file.write(content)
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
            for path in contents:
                temporary[path].replace(path)
        finally:
            for leftover in temporary.values():
                leftover.unlink(missing_ok=True)
        for directory in {path.parent for path in contents} if sync else ():
            _sync_directory(directory)
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
