"""Run jobs through submitit: on a SLURM cluster, or in processes of this machine.

submitit writes a pickle, a batch script and a log for each job to ``.submitit`` in the directory of the sweep. A signal
asks a job to save and end. It is then queued again, by submitit's own handler of its signal, and resumes.
"""

import contextlib
import getpass
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import submitit
from hydra.types import HydraContext, TaskFunction
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.helpers import Checkpointable

from blitz.config.paths import shorten
from blitz.errors import UserError, reason
from blitz.process import signals
from blitz.runs.atomic import write_atomically
from blitz.sweep.attempt import run_attempt
from blitz.sweep.job import Job, Outcome

FOLDER = ".submitit"
JOB_ID = "slurm_job_id"  # file in the directory of a job, from its submission until its end is reported
POLL_SECONDS = 5.0  # between two questions to SLURM about all jobs
RESULT_SECONDS = 30.0  # on a network file system the result may appear this long after SLURM reports the end
QUEUED = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
}  # fmt: skip
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip


class Attempt(Checkpointable):
    """One attempt of a job, as submitit pickles it. If it is queued again, it is called again, and resumes.

    Args:
        work: pickled Hydra context and task.
        sweep: a pipe of the sweep that this attempt must not outlive. None: it runs without the sweep.
    """

    def __init__(self, work: bytes, job: Job, sweep: Path | None = None) -> None:
        self.work, self.job, self.sweep = work, job, sweep

    def __call__(self) -> Outcome:
        logging.getLogger("submitit").setLevel(logging.ERROR)  # other lines would end up in the output of the job
        started = time.monotonic()
        stopped = threading.Event()
        try:
            with signals.exit_on_signals():
                if self.sweep:
                    threading.Thread(target=_obey, args=(self.sweep, stopped), daemon=True).start()
                outcome = run_attempt(self.work, self.job.config, self.job.path)
        except SystemExit as end:
            by_signal = end.code in (signals.STOPPED, signals.INTERRUPTED)
            if not by_signal or stopped.is_set() or (not self.sweep and _has_ended()):
                raise
            outcome = _queue_again()
        outcome = outcome._replace(seconds=time.monotonic() - started)
        self.job.record(outcome)  # the sweep may have ended
        if outcome.state == "done":
            (self.job.path / JOB_ID).unlink(missing_ok=True)
        return outcome


def _obey(sweep: Path, stopped: threading.Event) -> None:
    """Stop this process when the sweep asks for it, and end it at once when the sweep's process has ended."""
    with contextlib.suppress(FileNotFoundError):
        pipe = os.open(sweep, os.O_RDONLY | os.O_NONBLOCK)  # without a writer, a blocking call would wait for one
        os.set_blocking(pipe, True)
        if os.read(pipe, 1):
            stopped.set()
            os.kill(os.getpid(), signal.SIGTERM)
            os.read(pipe, 1)
    os._exit(1)


def _has_ended() -> bool:
    """Return whether SLURM has cancelled this job or queued it again already. Otherwise its state is running."""
    states = slurm_states()
    return states is not None and states.get(submitit.JobEnvironment().job_id) not in ("RUNNING", "SIGNALING")


def _queue_again() -> Outcome:
    """Queue this job again through submitit's handler of its signal, which ends this process.

    Return the outcome if that is not possible.
    """
    print("the job is queued again, to resume", flush=True)
    try:
        signal.raise_signal(signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"])
    except UncompletedJobError:
        return Outcome(
            "failed", reason="it reached its time limit too often (hydra.launcher.max_num_timeout); it can resume"
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Outcome("interrupted", reason=f"it was saved, but SLURM did not queue it again: {reason(error)}")
    raise AssertionError("submitit's handler ends the process")


def slurm_states() -> dict[str, str] | None:
    """Return the states of the user's jobs by job ID, or None if SLURM does not answer.

    Unlike ``sacct``, which submitit calls, ``squeue`` needs no accounting database. SLURM forgets a job some minutes
    after its end.
    """
    command = ["squeue", "--noheader", "--states=all", "--format=%A %T", f"--user={getpass.getuser()}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode:
        return None
    return dict(line.split() for line in answer.stdout.splitlines() if line.strip())


@dataclass
class _Submitted:
    job: Job
    handle: submitit.Job[Outcome]
    alive: bool  # whether this process has seen it queued or running
    ended: float | None = None  # when its end was noticed


class SlurmExecutor:
    """Submit jobs to SLURM. A job that another process has submitted, and whose end was not reported, is found again.

    A signal leaves the jobs on the cluster.

    Args:
        slots: number of jobs that are submitted at the same time.
        max_num_timeout: times that a job is queued again because of its time limit.
        parameters: those of ``submitit.AutoExecutor``.
    """

    def __init__(
        self,
        context: HydraContext,
        task: TaskFunction,
        sweep_dir: Path,
        slots: int,
        max_num_timeout: int,
        parameters: Mapping[str, Any],
    ) -> None:
        self._work = cloudpickle.dumps((context, task))
        self._folder = sweep_dir / FOLDER
        self._slots = slots
        self._submitter = submitit.AutoExecutor(self._folder, cluster="slurm", slurm_max_num_timeout=max_num_timeout)
        self._submitter.update_parameters(**parameters)
        self._submitted: list[_Submitted] = []
        self._left: list[str] = []  # IDs of jobs that stay on the cluster
        self._stopped = False
        self._asked = 0.0

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, job: Job) -> None:
        job.path.mkdir(parents=True, exist_ok=True)
        record = job.path / JOB_ID
        if record.exists():
            handle: submitit.Job[Outcome] = submitit.SlurmJob(self._folder, record.read_text(encoding="utf-8").strip())
            self._submitted.append(_Submitted(job, handle, alive=False))
        else:
            self._submitted.append(_Submitted(job, self._submit(job), alive=True))

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        if not self._stopped:
            time.sleep(seconds)
        if self._stopped:
            return self._leave()
        if time.monotonic() < self._asked + POLL_SECONDS:
            return []
        states = slurm_states()
        self._asked = time.monotonic()
        if states is None:
            return []
        ended = []
        for one in list(self._submitted):
            state = states.get(one.handle.job_id, "")
            if not (outcome := self._outcome(one, state)):
                continue
            if outcome.state == "interrupted":
                one.job.queued, one.alive, one.ended = True, True, None
                one.handle = self._submit(one.job)
                continue
            (one.job.path / JOB_ID).unlink(missing_ok=True)
            self._submitted.remove(one)
            ended.append((one.job, outcome))
        return ended

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        """Say how to find the jobs that stay on the cluster, and how to cancel them."""
        self._leave()
        if self._left:
            ids = f"{shlex.quote(shorten(self._folder.parent))}/*/{JOB_ID}"
            print(
                f"{len(self._left)} jobs remain queued or running in SLURM and do not need this process\n"
                f"to wait for them: run the same command again\nto save and cancel them: scancel $(cat {ids})",
                file=sys.stderr,
                flush=True,
            )

    def _submit(self, job: Job) -> submitit.Job[Outcome]:
        self._submitter.update_parameters(name=job.path.name)
        try:
            with _keep_from_children(signal.SIGINT, signal.SIGHUP):  # Ctrl-C must not end sbatch
                handle: submitit.Job[Outcome] = self._submitter.submit(Attempt(self._work, job))
        except FailedJobError as error:
            lines = [line for line in str(error).splitlines() if line.startswith("sbatch: ")]
            why = lines[0] if lines else "sbatch printed no reason"
            raise UserError(f"hydra.launcher: SLURM refused a job: {why}") from error
        write_atomically(job.path / JOB_ID, f"{handle.job_id}\n".encode())
        return handle

    def _outcome(self, one: _Submitted, state: str) -> Outcome | None:
        """Return the outcome of a job, or None if it has not ended. An interrupted job has to be submitted again."""
        if state and state not in ENDED:
            one.job.queued, one.alive, one.ended = state in QUEUED, True, None
            return None
        if outcome := _result(one.handle):
            return outcome
        one.ended = one.ended or time.monotonic()
        if time.monotonic() < one.ended + RESULT_SECONDS:
            return None
        if outcome := one.job.finished():
            return outcome
        state = state or (str(one.handle.get_info().get("State", "")).split() or [""])[0]
        if state == "PREEMPTED" or (state in ("", "CANCELLED") and not one.alive):
            return Outcome("interrupted")
        end = f"SLURM ended job {one.handle.job_id}: {state}" if state else f"SLURM forgot job {one.handle.job_id}"
        return Outcome("failed", reason=f"{end}; its log is {shorten(one.handle.paths.stdout)}")

    def _leave(self) -> list[tuple[Job, Outcome]]:
        left, self._submitted = self._submitted, []
        self._left += [one.handle.job_id for one in left]
        return [(one.job, Outcome("running", reason=f"SLURM job {one.handle.job_id}")) for one in left]


@dataclass
class _Local:
    job: Job
    handle: submitit.Job[Outcome]
    pipe: int  # the attempt holds its other end
    path: Path
    started: float


class LocalExecutor:
    """Run jobs in processes that submitit starts on this machine. They end when this process ends.

    Args:
        slots: number of jobs at the same time. Each place has GPUs of its own.
        max_num_timeout: times that a job is started again because of its time limit.
        parameters: those of ``submitit.LocalExecutor``.
    """

    def __init__(
        self,
        context: HydraContext,
        task: TaskFunction,
        sweep_dir: Path,
        slots: int,
        max_num_timeout: int,
        parameters: Mapping[str, Any],
    ) -> None:
        self._work = cloudpickle.dumps((context, task))
        self._slots = slots
        self._gpus = parameters["gpus_per_node"] or 0
        self._submitter = submitit.LocalExecutor(sweep_dir / FOLDER, max_num_timeout=max_num_timeout)
        self._submitter.update_parameters(**{**parameters, "gpus_per_node": self._gpus})
        self._running: dict[int, _Local] = {}
        self._pipes = Path(tempfile.mkdtemp(prefix="blitz-sweep-"))
        self._stopped = False

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, job: Job) -> None:
        slot = next(number for number in range(self._slots) if number not in self._running)
        path = self._pipes / job.path.name
        os.mkfifo(path)
        pipe = os.open(path, os.O_RDWR)
        if self._gpus:
            self._submitter.update_parameters(visible_gpus=list(range(slot * self._gpus, (slot + 1) * self._gpus)))
        with _keep_from_children(signal.SIGINT, signal.SIGHUP):  # this process tells them when to stop
            handle: submitit.Job[Outcome] = self._submitter.submit(Attempt(self._work, job, path))
        self._running[slot] = _Local(job, handle, pipe, path, time.monotonic())

    def wait(self, seconds: float) -> list[tuple[Job, Outcome]]:
        time.sleep(seconds)
        ended = []
        for slot, one in list(self._running.items()):
            if one.handle.done():
                ended.append((one.job, self._outcome(one)))
                self._forget(slot)
        return ended

    def stop(self) -> None:
        self._stopped = True
        for one in self._running.values():
            if one.path.exists():
                one.path.unlink()  # an attempt that starts now ends at once
                os.write(one.pipe, b"s")

    def close(self) -> None:
        for slot in list(self._running):
            self._forget(slot)
        shutil.rmtree(self._pipes, ignore_errors=True)

    def _outcome(self, one: _Local) -> Outcome:
        seconds = time.monotonic() - one.started
        if outcome := _result(one.handle):
            return outcome
        if self._stopped:
            return Outcome("interrupted", reason="stopped by a signal", seconds=seconds)
        log = shorten(one.handle.paths.stdout)
        return Outcome("failed", reason=f"its process ended without a result; its log is {log}", seconds=seconds)

    def _forget(self, slot: int) -> None:
        one = self._running.pop(slot)
        os.close(one.pipe)
        one.path.unlink(missing_ok=True)


def _result(handle: submitit.Job[Outcome]) -> Outcome | None:
    """Return the outcome that an attempt has returned, or None if there is none."""
    if not handle.paths.result_pickle.exists():
        return None
    try:
        return handle.result()
    except RuntimeError:  # submitit's own exceptions
        return Outcome("failed", reason=f"the job could not start; its log is {shorten(handle.paths.stdout)}")


@contextlib.contextmanager
def _keep_from_children(*numbers: signal.Signals) -> Iterator[None]:
    """Block signals that a terminal sends. Processes that are started meanwhile never receive them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
