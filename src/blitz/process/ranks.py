"""The ranks of a run: processes started here, by torchrun or by SLURM. Imports torch only when it is needed.

All code relies on torchrun's environment variables: ``RANK``, ``LOCAL_RANK``, ``GROUP_RANK`` (of the node),
``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``. SLURM's variables are translated into them. Ranks that are started
here use a file for their rendezvous instead of an address, so that no other program can take a port in between.
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
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from blitz.errors import PrunedError, RankError, UserError
from blitz.process import signals

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

RENDEZVOUS_FILE = "BLITZ_RENDEZVOUS_FILE"
GRACE = 3.0  # seconds that the other ranks have to end by themselves after one has failed


class _Failure(NamedTuple):
    """The end of a rank that raised an exception. The earliest one is the cause of the others."""

    time: float
    line: str
    traceback: str


class _Traceback(Exception):
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Launched(NamedTuple):
    rank: int
    world_size: int


def launched() -> Launched | None:
    """Return the rank and the world size that torchrun or SLURM set, or None if neither started this process."""
    env = os.environ
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID"):
        _check_number(name, minimum=0)  # even if the others are not set: Lightning reads each
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        _check_number(name, minimum=1)
    # srun sets the variables of a step; a batch script and a shell have none.
    if "RANK" not in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        if missing := [name for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID") if name not in env]:
            raise UserError(f"SLURM_STEP_NUM_TASKS={env['SLURM_STEP_NUM_TASKS']}: {missing[0]} is not set; expected "
                            "the variables that srun sets, or none of them")  # fmt: skip
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
        env["LOCAL_RANK"], env["GROUP_RANK"] = env["SLURM_LOCALID"], env["SLURM_NODEID"]
        env.setdefault("MASTER_ADDR", first_host(nodes))
        env.setdefault("MASTER_PORT", str(15000 + int(env.get("SLURM_JOB_ID", 0)) % 10000))
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= env.keys():
        return None
    rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
    if rank >= world_size:
        raise UserError(
            f"RANK={rank}: not smaller than WORLD_SIZE={world_size}; expected the variables that torchrun sets"
        )
    return Launched(rank, world_size)


def _check_number(name: str, minimum: int) -> None:
    value = os.environ.get(name, str(minimum))
    if not value.isdecimal() or int(value) < minimum:
        raise UserError(f"{name}={value}: not a valid value of this environment variable; expected a whole number "
                        f">= {minimum}, as torchrun and srun set it, or no variable")  # fmt: skip


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's compressed list: ``gpu[07-09,12],big1`` gives ``gpu07``."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes).split(",")[0]


@cache
def rendezvous_store() -> "Store":
    """Return the store in which the ranks of this run find each other. It must live as long as they do."""
    from torch.distributed import FileStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if RENDEZVOUS_FILE in os.environ:
        return FileStore(os.environ[RENDEZVOUS_FILE], int(os.environ["WORLD_SIZE"]))
    store, _, _ = next(rendezvous("env://"))
    return store


def broadcast_job(job: bytes = b"") -> bytes:
    """Return, on every rank that torchrun or SLURM started, the first job that rank 0 passed.

    Rank 0 waits until all ranks have it.
    """
    started, store = launched(), rendezvous_store()
    assert started is not None
    if started.rank == 0:
        job = store.compare_set("job", "", job)  # type: ignore[arg-type]
        store.wait([f"received/{rank}" for rank in range(1, started.world_size)])
        return job
    job = store.get("job")
    store.set(f"received/{started.rank}", "yes")
    return job


def run(work: Callable[[], Any], count: int, log_dir: Path, explain: Callable[[BaseException], str]) -> Any:
    """Run ``work()`` in ``count`` new processes of this machine. Return the value of rank 0.

    Output of the other ranks goes to ``rank<n>.log`` in ``log_dir``. If a rank fails or is killed, the others end
    within seconds. If this process ends, they end at once. A signal that asks this process to end is forwarded to all
    of them as SIGTERM; a second Ctrl-C ends them. The environment of this process does not change.

    Args:
        work: must be picklable, like ``explain``.
        explain: describes an exception in one line.

    Raises:
        PrunedError: the study pruned the run.
        RankError: names the rank that failed first, with its explanation.
        SystemExit: a signal stopped them.
    """
    processes: dict[Connection, SpawnProcess] = {}
    with tempfile.TemporaryDirectory() as directory, signals.forwarded_to(processes) as received:
        variables = _variables(count, Path(directory) / "rendezvous")
        try:
            for rank in range(count):
                log = log_dir / f"rank{rank}.log" if rank else None
                _start(rank, processes, variables, log, work, explain)
            if received:  # the signal arrived before all ranks were started
                for process in processes.values():
                    process.terminate()
            result = _supervise(processes, received)
            deadline = time.monotonic() + GRACE
            for process in processes.values():
                process.join(max(0.0, deadline - time.monotonic()))
            return result
        finally:
            for process in processes.values():
                process.kill()
                process.join()


def _variables(count: int, rendezvous_file: Path) -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, num_cores() // count)))
    shared = {"WORLD_SIZE": str(count), "GROUP_RANK": "0", "OMP_NUM_THREADS": threads}
    return shared | {RENDEZVOUS_FILE: str(rendezvous_file), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def requested_threads() -> int | None:
    """Return the threads that ``OMP_NUM_THREADS`` asks for, at its outermost level. None if it names no number."""
    value = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(value) if value.isdecimal() and int(value) else None


def num_cores() -> int:
    """Return the number of CPU cores that this process may use. A scheduler may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(
    rank: int,
    processes: dict[Connection, SpawnProcess],
    variables: Mapping[str, str],
    log: Path | None,
    work: Callable[[], Any],
    explain: Callable[[BaseException], str],
) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    start_method = multiprocessing.get_start_method()
    arguments = (work, explain, {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log, sender, start_method)
    process = context.Process(target=_run_rank, args=arguments, name=f"rank {rank}")
    if os.name == "posix":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # otherwise process.start() does so, which unblocks signals
    with signals.blocked():
        process.start()
    sender.close()  # only the rank holds a sender now, so the pipe closes when the rank ends
    processes[receiver] = process


def _run_rank(
    work: Callable[[], Any],
    explain: Callable[[BaseException], str],
    variables: Mapping[str, str],
    log: Path | None,
    sender: Connection,
    start_method: str,
) -> None:
    # A spawned process spawns its own processes by default: each worker of a loader would import torch again.
    multiprocessing.set_start_method(start_method, force=True)
    exit_with_parent()
    signals.ignore_all_but_sigterm()
    os.environ.update(variables)
    if log:
        redirect_output(log)
    try:
        with signals.exit_on_signals():
            signals.unblock()
            sender.send(work())
    except SystemExit as stopped:
        _exit(int(stopped.code or 0))
    except PrunedError as pruned:
        sender.send(pruned)
        _exit(0)
    except BaseException as error:
        sender.send(_Failure(time.time(), explain(error), "".join(traceback.format_exception(error))))
        _exit(1)


def _exit(status: int) -> None:
    """End without cleaning up: the process group's destructor may wait for ranks that have failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def redirect_output(log: Path) -> None:
    """Append the output and the errors of this process, and of those that it starts, to a file."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # A caller such as a notebook may have replaced these streams by others that do not use the descriptors.
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def exit_with_parent() -> None:
    """End this process as soon as the process that started it through multiprocessing has ended."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _supervise(processes: Mapping[Connection, SpawnProcess], received: Sequence[int]) -> Any:
    """Return the value of rank 0 once all ranks have ended.

    Args:
        received: the signals that arrive meanwhile.

    Raises:
        PrunedError: the study pruned the run.
        RankError: a rank failed or was killed.
        SystemExit: a signal stopped the ranks.
    """
    results, exit_codes = _collect(processes)
    codes = exit_codes.values()
    if signals.STOPPED in codes or (received and codes):
        sys.exit(signals.INTERRUPTED if signal.SIGINT in received else signals.STOPPED)
    for rank, code in exit_codes.items():  # first: the failures of other ranks may only be a consequence
        reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise RankError(f"rank {rank} {reason}")
    failures = {rank: result for rank, result in results.items() if isinstance(result, _Failure)}
    if failures:
        rank, first = min(failures.items(), key=lambda item: item[1].time)
        on_all_ranks = 0 in failures and failures[0].line == first.line
        raise RankError(first.line if on_all_ranks else f"rank {rank}: {first.line}") from _Traceback(first.traceback)
    if isinstance(results[0], PrunedError):  # all ranks raise it together
        raise results[0]
    return results[0]


def _collect(processes: Mapping[Connection, SpawnProcess]) -> tuple[dict[int, Any], dict[int, int]]:
    """Wait until all ranks have ended, or ``GRACE`` seconds after one has failed.

    Returns:
        The values or failures that ranks sent, and the exit codes of ranks that sent nothing.
    """
    running = {receiver: rank for rank, receiver in enumerate(processes)}
    results: dict[int, Any] = {}
    exit_codes: dict[int, int] = {}
    deadline: float | None = None
    while running and (deadline is None or time.monotonic() < deadline):
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        for ready in wait(list(running), timeout):
            receiver = cast("Connection", ready)  # on Windows it has a class of its own
            rank = running[receiver]
            try:
                results[rank] = receiver.recv()
            except EOFError:
                del running[receiver]
                if rank not in results:
                    processes[receiver].join()
                    exit_codes[rank] = processes[receiver].exitcode or 0
            if deadline is None and (rank in exit_codes or isinstance(results.get(rank), _Failure)):
                deadline = time.monotonic() + GRACE
    return results, exit_codes
