"""The processes of a run, made here or by torchrun or SLURM; torch is not imported before it is needed.

torchrun's environment variables are the contract: ``RANK``, ``LOCAL_RANK``, ``GROUP_RANK`` (of the machine),
``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``. SLURM's are translated into them. The processes that are made here
meet in a file instead of at an address: no port can be taken by somebody else in between.
"""

import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MEETING = "BLITZ_MEETING"
SHELLS = ("bash", "interactive")  # names of SLURM jobs in which nothing was started yet
GRACE = 3.0  # seconds that the other processes have to end by themselves, once one has failed
ASKED = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
STOPPED = 128 + signal.SIGTERM  # the status of a process that has saved the run because a signal asked it to end


class RankError(Exception):
    """A process of the run failed; its own words, and its traceback as the cause."""


class _Failure(NamedTuple):
    """What a process says of its end; the first of them is to blame."""

    time: float
    line: str
    traceback: str


class _Traceback(Exception):
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Launched(NamedTuple):
    rank: int
    of: int


def launched() -> Launched | None:
    """What torchrun or SLURM has made of this process: one of several. None where it was started by itself."""
    job = os.environ
    if "RANK" not in job and int(job.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun's; a batch script or shell has it not
        nodes = job.get("SLURM_STEP_NODELIST") or job.get("SLURM_JOB_NODELIST") or "127.0.0.1"
        job["RANK"], job["WORLD_SIZE"] = job["SLURM_PROCID"], job["SLURM_STEP_NUM_TASKS"]
        job["LOCAL_RANK"], job["GROUP_RANK"] = job["SLURM_LOCALID"], job["SLURM_NODEID"]
        job.setdefault("MASTER_ADDR", first_host(nodes))
        job.setdefault("MASTER_PORT", str(15000 + int(job.get("SLURM_JOB_ID", 0)) % 10000))
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= job.keys():
        return None
    return Launched(int(job["RANK"]), int(job["WORLD_SIZE"]))


def first_host(nodes: str) -> str:
    """Of SLURM's compressed list: ``gpu[07-09,12],big1`` starts with ``gpu07``."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes).split(",")[0]


@cache
def meeting() -> "Store":
    """Where the processes of this run find each other; it must live as long as they do."""
    from torch.distributed import FileStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if MEETING in os.environ:
        return FileStore(os.environ[MEETING], int(os.environ["WORLD_SIZE"]))
    store, _, _ = next(rendezvous("env://"))
    return store


def share(job: bytes = b"") -> bytes:
    """What rank 0 gave first, in every process that torchrun or SLURM made. Rank 0 waits until all have it."""
    me, store = launched(), meeting()
    assert me is not None
    if me.rank == 0:
        job = store.compare_set("job", "", job)  # type: ignore[arg-type]
        store.wait([f"taken/{other}" for other in range(1, me.of)])
        return job
    job = store.get("job")
    store.set(f"taken/{me.rank}", "yes")
    return job


def run(work: Callable[[], Any], count: int, folder: Path, explain: Callable[[BaseException], str]) -> Any:
    """``work()`` in ``count`` new processes of this machine; gives what the first returns.

    What the others print goes to ``rank<n>.log`` in ``folder``. When one process fails or is killed the rest end within
    seconds, and when this one does, whatever ends it, they end at once. A signal that asks this one to end is sent on
    to all of them, as SIGTERM; a second Ctrl-C ends them. Nothing of this process changes.

    Args:
        work: must pickle, as must ``explain``.
        explain: one line on what went wrong.

    Raises:
        RankError: which process failed first, and how it explains that.
        SystemExit: a signal has stopped them.
    """
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with tempfile.TemporaryDirectory() as there:
        shared = {"WORLD_SIZE": str(count), "GROUP_RANK": "0", "OMP_NUM_THREADS": threads}
        shared |= {MEETING: str(Path(there) / "meeting"), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        processes: dict[Connection, SpawnProcess] = {}
        with _sent_on(processes) as asked:
            try:
                for rank in range(count):
                    variables = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    log = folder / f"rank{rank}.log" if rank else None
                    answer, ours = context.Pipe(duplex=False)
                    arguments = (work, explain, variables, log, ours)
                    process = context.Process(target=_rank, args=arguments, name=f"rank {rank}")
                    process.start()
                    ours.close()  # else the process's end would not be the pipe's
                    processes[answer] = process
                result = _watch(processes, asked)
                deadline = time.monotonic() + GRACE
                for process in processes.values():
                    process.join(max(0.0, deadline - time.monotonic()))
                return result
            finally:
                for process in processes.values():
                    process.kill()
                    process.join()


@contextmanager
def answered(by: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals that ask this process to end call ``by``; those that it ignores, as under nohup, it ignores still."""
    before = {number: signal.getsignal(number) for number in ASKED}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, by)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _sent_on(processes: Mapping[Connection, SpawnProcess]) -> Iterator[list[int]]:
    """Signals that would end this process end the others instead; gives those that came."""
    asked: list[int] = []

    def send_on(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            sys.exit(128 + signal.SIGINT)
        asked.append(number)
        if number == signal.SIGINT:
            os.write(1, b"\nfinishing the step and saving; Ctrl-C again stops at once\n")  # print() may be at work
        for process in processes.values():
            process.terminate()

    with answered(send_on):
        yield asked


def _rank(
    work: Callable[[], Any],
    explain: Callable[[BaseException], str],
    variables: Mapping[str, str],
    log: Path | None,
    answer: Connection,
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in ASKED:  # a terminal or scheduler sends them to all, but they are the parent's to send on, as SIGTERM
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    os.environ.update(variables)
    if log:
        with log.open("ab") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        answer.send(work())
    except SystemExit as stopped:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(stopped.code or 0))
    except BaseException as error:
        answer.send(_Failure(time.time(), explain(error), "".join(traceback.format_exception(error))))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # what is left of the process group may wait for the others, who are to end now


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _watch(processes: Mapping[Connection, SpawnProcess], asked: Sequence[int]) -> Any:
    """Until all have ended, or one has failed and the others had their time. ``asked``: signals that came meanwhile."""
    ranks = {answer: rank for rank, answer in enumerate(processes)}
    said: dict[int, Any] = {}
    killed: dict[int, int] = {}
    deadline = None
    while ranks and (deadline is None or time.monotonic() < deadline):
        for answer in wait(list(ranks), None if deadline is None else max(0.0, deadline - time.monotonic())):
            answer = cast("Connection", answer)  # on Windows a class beside it
            rank, process = ranks[answer], processes[answer]
            try:
                said[rank] = answer.recv()
            except EOFError:
                del ranks[answer]
                if rank not in said:
                    process.join()
                    killed[rank] = process.exitcode or 0
            if deadline is None and (rank in killed or isinstance(said.get(rank), _Failure)):
                deadline = time.monotonic() + GRACE
    if STOPPED in killed.values() or (asked and -signal.SIGTERM in killed.values()):
        sys.exit(128 + signal.SIGINT if signal.SIGINT in asked else STOPPED)
    for rank, code in killed.items():  # before what others say, who may only have lost it
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise RankError(f"rank {rank} {how}")
    failures = {rank: end for rank, end in said.items() if isinstance(end, _Failure)}
    if failures:
        rank, first = min(failures.items(), key=lambda item: item[1].time)
        all_say = 0 in failures and failures[0].line == first.line
        raise RankError(first.line if all_say else f"rank {rank}: {first.line}") from _Traceback(first.traceback)
    return said[0]
