"""One process at a time in a run's folder, by the kernel's file lock: it ends with the process, however that ends."""

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from blitz.errors import UserError

NAME = ".lock"
UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer

_held: set[int] = set()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder; a warning and no more where its file system has no locks.

    Raises:
        UserError: another process holds it; names that process and its host.
    """
    path = folder / NAME
    file = _take(path)
    _held.add(file)
    try:
        with contextlib.suppress(OSError):  # a full disk
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()} {socket.gethostname()}".encode())
        yield
    finally:
        # Nothing is left behind, for a refused run leaves no folder. The file goes while it is held: whoever had opened
        # it before sees, once the lock is theirs, that what they hold has no name any more, and takes the next one.
        _held.discard(file)
        if sys.platform == "win32":  # where an open file cannot be removed, neither ours nor that of the next
            os.close(file)
        with contextlib.suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(file)


def _take(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # the one before may just have removed it
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(file)
            except OSError as error:
                if error.errno not in UNABLE:
                    os.close(file)
                    if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                        raise UserError(
                            f"{path.parent} is in use by {_holder(path)}: wait for it, or end it first"
                        ) from None
                    raise
                print(
                    f"{path.parent}: its file system has no locks; see to it that no other process runs there",
                    file=sys.stderr,
                )
            if sys.platform == "win32" or os.fstat(file).st_nlink:
                return file
            os.close(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)  # what is locked cannot be read there: not the text
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _leave() -> None:
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_leave)  # a loader's worker does not hold what its dead parent held


def _holder(path: Path) -> str:
    for _ in range(10):  # it has the lock before it writes its name
        with contextlib.suppress(OSError, ValueError):
            pid, host = path.read_text().split()
            return f"process {pid} on host {host}"
        time.sleep(0.02)
    return "another process"
