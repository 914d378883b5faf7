"""Lock a run directory for one process. The kernel releases the lock when the process ends, also if it is killed."""

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
ATTEMPTS = 5  # with 20 ms between them: ``is_held`` of another process may have the lock for some microseconds
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of file systems without locks
BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)

_held: set[int] = set()


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory. If its file system has no locks, print a warning and continue.

    Raises:
        UserError: another process holds it; the message names that process and its host.
    """
    path = directory / NAME
    file = _acquire(path)
    _held.add(file)
    try:
        with contextlib.suppress(OSError):  # for example a full disk
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()} {socket.gethostname()}".encode())
        yield
    finally:
        # Remove the file, so that a refused run leaves no directory behind. It is removed while the lock is held: if
        # another process has already opened it, that process finds it unlinked and opens a new one.
        _held.discard(file)
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(file)
        with contextlib.suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(file)


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of a directory. Create and remove no file.

    Return False if its file system has no locks.
    """
    try:
        file = os.open(directory / NAME, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except OSError:  # there is no lock, or it belongs to a user whose files cannot be read
        return False
    try:
        _lock(file, shared=True)
        _unlock(file)  # a fork of this process may have a copy of the descriptor
    except OSError as error:
        return error.errno in BUSY
    finally:
        os.close(file)
    return False


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # the previous holder may just have removed it
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            _lock_or_refuse(file, path)
            if sys.platform == "win32" or os.fstat(file).st_nlink:
                return file
            os.close(file)


def _lock_or_refuse(file: int, path: Path) -> None:
    try:
        _lock_or_retry(file)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            warning = "its file system has no locks; make sure that no other process uses this directory"
            print(f"{path.parent}: {warning}", file=sys.stderr)
            return
        os.close(file)
        if error.errno not in BUSY:
            raise
        raise UserError(f"{path.parent} is in use by {_holder(path)}; wait for it, or end it first") from None


def _lock_or_retry(file: int) -> None:
    for _ in range(ATTEMPTS - 1):
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in BUSY:
                raise
            time.sleep(0.02)
        else:
            return
    _lock(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, shared: bool = False) -> None:
        """Lock the file. There are no shared locks on Windows."""
        os.lseek(file, 2**30, os.SEEK_SET)  # nobody can read locked bytes on Windows: lock one beyond the text
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

    def _unlock(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: int, shared: bool = False) -> None:
        """Lock the file. Several processes can hold a shared lock."""
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

    def _release_in_child() -> None:
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_release_in_child)  # a loader's worker may outlive its killed parent


def _holder(path: Path) -> str:
    for _ in range(10):  # a process acquires the lock before it writes its name
        with contextlib.suppress(OSError, ValueError):
            pid, host = path.read_text().split()
            return f"process {pid} on host {host}"
        time.sleep(0.02)
    return "another process"
