"""Run jobs until none is left: start them as places become free, show them, and stop them on a signal."""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from blitz.process import signals
from blitz.sweep.display import Display
from blitz.sweep.job import Job, Outcome

POLL_SECONDS = 0.2


class Executor(Protocol):
    """Run jobs somewhere else than in this process."""

    @property
    def slots(self) -> int:
        """Number of jobs that run at the same time."""

    def start(self, job: Job) -> None:
        """Start a job."""

    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        """Return the jobs that have ended since the last call. Wait at most ``seconds`` for the first."""

    def stop(self) -> None:
        """Ask all running jobs to save and end."""

    def close(self) -> None:
        """End all running jobs at once."""


def run_jobs(
    executor: Executor,
    display: Display,
    next_job: Callable[[], Job | None],
    ended: Callable[[Job, Outcome], None],
) -> None:
    """Run jobs until ``next_job`` returns None and the last one has ended.

    A job whose directory holds a finished run is not run again.

    Args:
        next_job: return the next job to start. It is called when a place is free.
        ended: receives each job and its outcome, in the order in which they end.

    Raises:
        SystemExit: a signal stopped the sweep. The jobs saved their state before.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            sys.exit(signals.exit_status(number))
        received.append(number)
        executor.stop()

    def end(job: Job, outcome: Outcome, was_run: bool) -> None:
        if was_run:
            job.record(outcome)
        display.end(job, outcome, was_run)
        ended(job, outcome)

    running = 0
    try:
        with signals.handled_by(stop), display:
            while True:
                # The number of slots is not needed for the first job, which may be done already.
                while not received and not (running and running >= executor.slots) and (job := next_job()):
                    if outcome := job.finished():
                        end(job, outcome, was_run=False)
                        continue
                    display.start(job)
                    executor.start(job)
                    running += 1
                    if received:  # the signal arrived before the executor knew the job
                        executor.stop()
                if not running:
                    break
                for job, outcome in executor.wait(POLL_SECONDS):
                    running -= 1
                    end(job, outcome, was_run=True)
                display.refresh()
    except Exception:  # a mistake in the next job, or a full disk: the running jobs save before the sweep ends
        executor.stop()
        while running:
            for job, outcome in executor.wait(POLL_SECONDS):
                running -= 1
                job.record(outcome)
        raise
    finally:
        executor.close()
    if received:
        raise SystemExit(signals.exit_status(received[0]))
