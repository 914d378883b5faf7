"""Run jobs in new processes of this machine.

On Linux the processes are forks of a server that has imported torch and Lightning already, which saves several seconds
for each job. Elsewhere each job is a new Python process. In both cases a job has its own memory, signals and exit
status: if it is killed, crashes or runs out of memory, no other job notices.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from blitz.process import ranks, signals
from blitz.sweep.attempt import pickled_work, run_attempt
from blitz.sweep.job import Job, Outcome

GRACE = 10.0  # seconds that a job has to save its state before it is killed
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"  # macOS's own libraries do not survive a fork


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    receiver: Connection
    slot: int
    started: float
    deadline: float | None  # when the job is asked to end, and then when it is killed
    timed_out: bool = False
    sent: Outcome | None = None
    open: bool = True  # whether the job may still send its outcome

    def receive(self) -> None:
        """Read what the job has sent. A job that is killed sends nothing, or a part."""
        try:
            self.sent = self.receiver.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self.open = False


class Places(NamedTuple):
    """Where jobs run at the same time.

    Args:
        threads: CPU threads of a job. None: it divides the cores among its own processes.
        gpus: the GPU of each place, as ``CUDA_VISIBLE_DEVICES`` names it. None: a job uses all.
    """

    slots: int
    threads: int | None
    gpus: Sequence[str] | None = None


class ProcessExecutor:
    """Run jobs in processes of this machine.

    Args:
        find_places: return the places. It is called once, when a job has started.
        timeout: seconds after which a job is asked to save and end; None: no limit.
    """

    def __init__(
        self, context: HydraContext, task: TaskFunction, find_places: Callable[[], Places], timeout: float | None
    ) -> None:
        self._work = pickled_work(context, task)
        self._find_places = find_places
        self._timeout = timeout
        self._running: dict[int, _Running] = {}  # by the place in which a job runs

    @cached_property
    def _places(self) -> Places:
        return self._find_places()

    @property
    def slots(self) -> int:
        return self._places.slots

    def start(self, job: Job) -> None:
        slot = next(number for number in range(self.slots) if number not in self._running)
        environment = {}
        if self._places.threads:
            environment["OMP_NUM_THREADS"] = str(self._places.threads)
        if self._places.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._places.gpus[slot]
        context = processes_context()
        receiver, sender = context.Pipe(duplex=False)
        job.path.mkdir(parents=True, exist_ok=True)
        start_method = multiprocessing.get_start_method()
        arguments = (self._work, job.config, job.path, environment, sender, start_method)
        process: BaseProcess = context.Process(target=run_in_process, args=arguments, name=job.path.name)
        with _signals_blocked_in_children():
            process.start()
        sender.close()
        now = time.monotonic()
        deadline = None if self._timeout is None else now + self._timeout
        self._running[slot] = _Running(job, process, receiver, slot, now, deadline)

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        running = list(self._running.values())
        # A large outcome blocks its job until it is read. At the end of its pipe, only the end of the process is left.
        ready = wait(
            [*(one.process.sentinel for one in running), *(one.receiver for one in running if one.open)], seconds
        )
        for one in running:
            if one.receiver in ready:
                one.receive()
        ended = []
        for one in running:
            if one.process.is_alive():
                self._enforce_deadline(one)
            else:
                one.process.join()
                while one.open and one.receiver.poll():
                    one.receive()
                ended.append((one.job, self._outcome(one)))
                one.receiver.close()
                del self._running[one.slot]
        return ended

    def stop(self) -> None:
        for one in self._running.values():
            one.process.terminate()

    def close(self) -> None:
        for one in self._running.values():
            one.process.kill()
            one.process.join()

    def _enforce_deadline(self, one: _Running) -> None:
        if one.deadline is None or time.monotonic() < one.deadline:
            return
        if one.timed_out:
            one.process.kill()
        else:
            one.process.terminate()
        one.timed_out = True
        one.deadline = time.monotonic() + GRACE

    def _outcome(self, one: _Running) -> Outcome:
        seconds = time.monotonic() - one.started
        code = one.process.exitcode or 0
        if one.sent:
            return one.sent._replace(seconds=seconds)
        if one.timed_out:
            return Outcome(
                "failed", reason=f"stopped after hydra.launcher.timeout={self._timeout:g} s", seconds=seconds
            )
        if code in (signals.STOPPED, signals.INTERRUPTED):
            return Outcome("interrupted", reason="stopped by a signal", seconds=seconds)
        return Outcome("failed", reason=_death(code), seconds=seconds)


def processes_context() -> Any:
    """Return the multiprocessing context of the jobs."""
    if START_METHOD == "forkserver":
        multiprocessing.set_forkserver_preload(["blitz.sweep.preload"])
    return multiprocessing.get_context(START_METHOD)


def places(config: DictConfig, total: int, n_jobs: int | None, jobs_per_gpu: int) -> Places:
    """Return the places for ``total`` jobs with the device of ``config``.

    The threads of a job do not depend on the number of jobs that are left, because they change the rounding.
    """
    accelerator = OmegaConf.select(config, "trainer.accelerator")
    one_device = OmegaConf.select(config, "trainer.devices") in (1, None)
    if OmegaConf.select(config, "device.process_per_device") or not one_device:
        return Places(n_jobs or 1, threads=None)
    cores = ranks.num_cores()
    gpus = _gpus() if accelerator in ("auto", "cuda", "gpu") else []
    if accelerator == "mps" or (accelerator == "auto" and sys.platform == "darwin"):
        slots = n_jobs or 1
    else:
        slots = n_jobs or min(len(gpus) * jobs_per_gpu or cores, total)
    threads = ranks.requested_threads() or max(1, cores // slots)
    return Places(slots, threads, [gpus[slot % len(gpus)] for slot in range(slots)] if gpus else None)


def _gpus() -> list[str]:
    """Return the names of the visible GPUs for ``CUDA_VISIBLE_DEVICES``."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    receiver, sender = processes_context().Pipe(duplex=False)
    process = processes_context().Process(target=_send_number_of_gpus, args=(sender,))
    with _signals_blocked_in_children():
        process.start()
    sender.close()
    count = 0
    with contextlib.suppress(EOFError):  # the process crashed: torch cannot use the GPUs
        count = receiver.recv()
    process.join()
    return [str(number) for number in range(count)]


def _send_number_of_gpus(sender: Connection) -> None:
    import torch

    sender.send(torch.cuda.device_count())


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    name = signal.Signals(-code).name
    return f"its process was killed by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"


@contextlib.contextmanager
def _signals_blocked_in_children() -> Iterator[None]:
    """Block signals until a job has installed its handlers. The server of forks blocks them for its whole life."""
    if os.name == "posix":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # otherwise process.start() does so, which unblocks signals
    with signals.blocked():
        yield


def run_in_process(
    work: bytes, config: bytes, path: Any, environment: Mapping[str, str], sender: Connection, start_method: str
) -> None:
    """Run one job in this new process, send its outcome, and write its output to ``output.log``.

    Args:
        work: from ``attempt.pickled_work``.
        start_method: for the processes of the job: workers of a loader would import torch again if they were spawned.
    """
    multiprocessing.set_start_method(start_method, force=True)
    ranks.exit_with_parent()
    signals.ignore_all_but_sigterm()  # the sweep forwards Ctrl-C, which a terminal sends to all processes
    os.environ.update(environment)
    with signals.exit_on_signals():
        signals.unblock()
        outcome = run_attempt(work, config, path)
    sender.send(outcome)
    sender.close()
