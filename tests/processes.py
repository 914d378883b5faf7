"""Start Python programs as processes of their own, without importing torch and Lightning for each of them.

The imports take longer than a short run. On Linux one server for each process of pytest imports everything once, and
each program is a fork of it: a process with its own files, signals and exit status. Elsewhere, and with ``fork=False``,
it is a new Python process.
"""

import atexit
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

from blitz.config.paths import CONFIGS, PROJECT

TRAIN = "from blitz.train import main; main()"
EVAL = "from blitz.eval import main; main()"
# Also fork the ranks. Use this only in tests that are not about starting ranks.
FORK_RANKS = "from tests.processes import fork_ranks; fork_ranks()"
TRAIN_WITH_FORKED_RANKS = f"{FORK_RANKS}; {TRAIN}"
EVAL_WITH_FORKED_RANKS = f"{FORK_RANKS}; {EVAL}"
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "src")))}
IMPORTED = (
    "blitz.callback.last_checkpoint", "blitz.callback.progress", "blitz.callback.progress_file",
    "blitz.callback.resumable_loader", "blitz.cli.app", "blitz.data.augment", "blitz.data.digits",
    "blitz.data.image_folder", "blitz.eval", "blitz.logger.csv", "blitz.logger.tensorboard", "blitz.model.net",
    "blitz.runs.resume", "blitz.sweep.launcher", "blitz.task.classify", "blitz.terminal", "blitz.train",
    "blitz.training.build", "blitz.training.rehearsal", "blitz.training.results", "blitz.training.tune",
    "tests.conftest",
)  # fmt: skip
SERVER = "from tests.processes import serve; serve()"


class Forked:
    """A fork of the server, with the methods of ``subprocess.Popen`` that the tests use."""

    def __init__(self, program: str, arguments: tuple[str, ...], stdout: int, stderr: int, **options: Any) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        ours = []
        if stdout == subprocess.PIPE:
            self.stdout, stdout = _pipe()
            ours.append(stdout)
        if stderr == subprocess.PIPE:
            self.stderr, stderr = _pipe()
            ours.append(stderr)
        files = [stdout, stdout if stderr == subprocess.STDOUT else stderr]
        self.pid = int(_server().ask({"program": program, "arguments": arguments, **options}, files))
        self._ended = os.pidfd_open(self.pid)
        for descriptor in ours:
            os.close(descriptor)

    def __del__(self) -> None:
        os.close(self._ended)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(_server().ask({"ended": self.pid}))
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return the remaining output and errors. Wait until every process that can write to them has ended."""
        texts = ["", ""]

        def read(index: int, stream: IO[str]) -> None:
            with stream:
                texts[index] = stream.read()

        streams = [(index, stream) for index, stream in enumerate((self.stdout, self.stderr)) if stream]
        readers = [threading.Thread(target=read, args=item, daemon=True) for item in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        self.wait(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


Process = subprocess.Popen[str] | Forked


def start(
    program: str,
    *arguments: object,
    fork: bool = True,
    cwd: Path = PROJECT,
    env: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    start_new_session: bool = False,
) -> Process:
    """Run Python code, as ``python -c program arguments`` does. The tests can be imported there.

    Args:
        fork: whether the process may be a fork of the server.
        env: variables that are added to those of this process.
        stdout: a file descriptor, or ``subprocess.PIPE`` for ``process.stdout``, as text.
        stderr: the same, or ``subprocess.STDOUT``.
    """
    texts = tuple(map(str, arguments))
    variables = {**os.environ, **ENVIRONMENT, **(env or {})}
    if fork and sys.platform == "linux":
        options = {"cwd": str(cwd), "env": variables, "start_new_session": start_new_session}
        return Forked(program, texts, stdout, stderr, **options)
    return subprocess.Popen(
        [sys.executable, "-c", program, *texts], cwd=cwd, env=variables, stdout=stdout, stderr=stderr,
        start_new_session=start_new_session, preexec_fn=_handle_signals if sys.platform != "win32" else None, text=True,
    )  # fmt: skip


def run(program: str, *arguments: object, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code until it ends, and return its output and exit status."""
    process = start(program, *arguments, **options)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess([program, *map(str, arguments)], process.returncode, stdout, stderr)


def fork_ranks() -> None:
    """Fork the ranks of a run in this process, which has imported torch already, instead of spawning them."""
    import multiprocessing

    if sys.platform == "linux":
        get_context: Any = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: get_context("fork" if method == "spawn" else method)


def _handle_signals() -> None:
    """Handle signals as a foreground process does: a shell lets its background jobs ignore Ctrl-C."""
    for name in ("SIGINT", "SIGQUIT", "SIGHUP"):
        signal.signal(signal.Signals[name], signal.SIG_DFL)


def _pipe() -> tuple[IO[str], int]:
    reader, writer = os.pipe()
    return os.fdopen(reader, encoding="utf-8"), writer


# -- the server ----------------------------------------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno())], cwd=PROJECT, env={**os.environ, **ENVIRONMENT},
                pass_fds=[theirs.fileno()], preexec_fn=_handle_signals,
            )  # fmt: skip

    def ask(self, request: Mapping[str, Any], files: list[int] | None = None) -> str:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files or [])
            answer = self._socket.recv(100)
        assert answer, "the server has ended"
        return answer.decode()


@cache
def _server() -> _Server:
    return _Server()


def serve() -> NoReturn:
    """Fork for each request until the connection is closed."""
    import gc
    import importlib

    for name in IMPORTED:
        importlib.import_module(name)
    import torch
    from hydra import compose, initialize_config_dir

    from blitz.config.schema import register

    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("train")  # fills the caches of the parser
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()  # imports the rest of torch
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # no fork writes to these objects, which would copy them
    while True:
        message, files, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        elif (answer := os.fork()) == 0:
            connection.close()
            _become(request, files)
        for file in files:
            os.close(file)
        connection.send(str(answer).encode())


def _become(request: Mapping[str, Any], files: list[int]) -> NoReturn:
    """Run the program in this fork, as Python runs one, and end."""
    import numpy as np

    for descriptor, file in enumerate(files, start=1):
        os.dup2(file, descriptor)
        os.close(file)
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace")
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    sys.argv = ["-c", *request["arguments"]]
    sys.modules["__main__"] = ModuleType("__main__")
    random.seed()
    np.random.seed()  # noqa: NPY002
    status = 0
    try:
        exec(request["program"], vars(sys.modules["__main__"]))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    # Python would also delete every module, which takes seconds with torch.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
