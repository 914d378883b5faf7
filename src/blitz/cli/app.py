"""Run a console script under Hydra: exit codes, one-line errors, and the record of a failed run."""

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from blitz.cli import arguments, launch
from blitz.cli.arguments import DIRECTORIES
from blitz.cli.errors import explain
from blitz.cli.groups import check_groups
from blitz.config.checks import check_values
from blitz.config.paths import CONFIGS, as_hydra_text, as_override, shorten
from blitz.config.schema import register
from blitz.errors import PrunedError, UserError
from blitz.process import ranks, signals
from blitz.runs import lock, overrides

Task = Callable[[DictConfig], Any]
GRID = "grid"  # the choice of sweep= that does not matter without -m


@signals.exit_on_signals()
def run(task: Task, config_name: str) -> None:
    """Compose ``configs/<config_name>.yaml`` with the command line and call ``task`` on it, once or for each job.

    Any failure ends the process with status 1 and one line on stderr. ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    register()
    started = None
    with _exceptions_from_hydra() as show_traceback, _output_that_may_fail():
        try:
            sys.argv = [sys.argv[0], *arguments.prepare(f"blitz-{config_name}", sys.argv[1:])]
            started = ranks.launched()
            if started and started.rank > 0:  # only rank 0 reads the command line
                if job := ranks.broadcast_job():
                    launch.join_job(task, job)
            else:
                try:
                    _run_jobs(task, config_name)
                finally:
                    with contextlib.suppress(BrokenPipeError):
                        _flush_output()
        except BrokenPipeError:  # the program that reads the output, such as head, has ended
            sys.exit(1)
        except Exception as error:
            if show_traceback:
                raise
            rank = f"rank {started.rank}: " if started and started.rank else ""
            sys.exit(f"blitz-{config_name}: {rank}{explain(error, config_name, sys.argv[1:])}")
        finally:
            if started and started.rank == 0 and started.world_size > 1:
                with contextlib.suppress(Exception):  # a failed rendezvous was already reported
                    ranks.broadcast_job(b"")  # if there was no job, the other ranks still wait for one


@contextlib.contextmanager
def _exceptions_from_hydra() -> Iterator[bool]:
    """Have Hydra raise exceptions instead of printing them. Yield whether the user asked for tracebacks."""
    show_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield show_traceback
    finally:
        if not show_traceback:
            os.environ.pop("HYDRA_FULL_ERROR", None)


@contextlib.contextmanager
def _output_that_may_fail() -> Iterator[None]:
    """Replace characters that the terminal cannot show, and end without a traceback if the output cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    try:
        yield
    finally:
        try:
            _flush_output()
        except OSError:  # Python would flush again when it exits, and report it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_jobs(task: Task, config_name: str) -> None:
    job = _Job(task, config_name)
    run_dir = _resumed_run(sys.argv[1:])
    absent = _absent_directories(sys.argv[1:])
    try:
        check_groups(sys.argv[1:], config_name)
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    except Exception as error:
        if run_dir is None or job.started:
            raise
        _resume_with_recorded_config(job, run_dir, error)
    finally:
        for directory in absent:
            _remove_if_empty(directory)
    if job.failure is not None:
        raise job.failure


def _absent_directories(argv: Sequence[str]) -> list[Path]:
    """Return the missing directories, innermost first, that Hydra would create for the run directory."""
    names = [value.strip("'\"") for key, _, value in (text.partition("=") for text in argv) if key in DIRECTORIES]
    paths = [path for name in names for path in (Path(name).absolute(), *Path(name).absolute().parents)]
    return [path for path in paths if not os.path.exists(path)]  # noqa: PTH110 Path.exists raises for long names


def _resumed_run(argv: Sequence[str]) -> Path | None:
    """Return the run directory of ``resume=``, or None if it has no config or if there is an option such as -m."""
    if any(text.startswith("-") for text in argv):
        return None
    names = [text.removeprefix("resume=").strip("'\"") for text in argv if text.startswith("resume=")]
    run_dir = Path(names[-1]).expanduser().absolute() if names else None
    return run_dir if run_dir and (run_dir / "config.yaml").is_file() else None


def _resume_with_recorded_config(job: "_Job", run_dir: Path, error: Exception) -> None:
    """Resume with the recorded config and the overrides only, because ``configs/`` cannot be composed.

    Args:
        error: the failure to compose ``configs/``.

    Raises:
        Exception: ``error``, if the recorded config cannot be composed either.
    """
    GlobalHydra.instance().clear()
    settings = ("hydra.output_subdir=null", "hydra/job_logging=stdout", "hydra/hydra_logging=default")
    line = explain(error, job.config_name, sys.argv[1:])
    sys.argv = [*sys.argv, f"hydra.run.dir={as_hydra_text(str(run_dir))}", *settings]
    try:
        hydra.main(version_base="1.3", config_path=str(run_dir), config_name="config")(job)()
    except Exception:
        raise error from None
    if job.failure is None:
        print(f"resumed with the recorded config only, because configs/ is invalid: {line}")


class _Job:
    """Call a task on a composed config, in a locked run directory. A failed run leaves a record, a refused run no file.

    ``failure`` holds the exception of a single run. If it were raised here, Hydra would print its own line about it.
    """

    def __init__(self, task: Task, config_name: str) -> None:
        self.task = task
        self.config_name = config_name
        self.failure: Exception | None = None
        self.started = False

    def __call__(self, cfg: DictConfig) -> Any:
        self.started = True
        job = HydraConfig.get()
        run_dir = Path(job.runtime.output_dir)
        multirun = job.mode == RunMode.MULTIRUN
        created = not any(run_dir.iterdir())
        try:
            with lock.hold(run_dir), _recorded(run_dir, always=multirun), signals.exit_on_signals():
                return self._run(cfg, run_dir)
        except Exception as error:
            if isinstance(error, OSError) and error.filename is None and _can_print():
                error.filename = str(run_dir)
            if multirun:  # the launcher, in another process, prints the message
                if isinstance(error, PrunedError):
                    raise
                raise UserError(explain(error, self.config_name, job.overrides.task)) from error
            self.failure = error
        except SystemExit:  # a signal stopped it
            if (run_dir / "environment.json").exists() and self.config_name == "train":
                command = f"blitz-train {as_override('resume', shorten(run_dir))}"
                print(f"to resume: {command}", file=sys.stderr, flush=True)
            raise
        finally:
            if created:
                _remove_if_empty(run_dir)
            gc.collect()  # trainer, data and callbacks refer to each other and would keep the images in memory

    def _run(self, cfg: DictConfig, run_dir: Path) -> Any:
        job = HydraConfig.get()
        sweep = job.runtime.choices.get("sweep", GRID)
        if sweep != GRID and job.mode == RunMode.RUN:
            raise UserError(f"sweep={sweep}: it runs several jobs; expected -m: blitz-train -m sweep={sweep}")
        if "resume" in cfg:
            resolved = overrides.resolve_job(cfg, run_dir, job.overrides.task)
            if resolved is None:
                return None
            cfg = resolved.cfg
            with read_write(job):  # type: ignore[arg-type]
                job.overrides.task = resolved.overrides
        check_values(cfg)
        return launch.run_job(self.task, cfg, partial(explain, config_name=self.config_name, overrides=[]))


@contextlib.contextmanager
def _recorded(run_dir: Path, always: bool) -> Iterator[None]:
    """Write the traceback of a failure to ``error.txt`` if the job has begun or resumed a run.

    With ``always``, also write it for a job that failed before that, unless the directory already holds a run.
    """

    def last_start() -> int | None:  # starting and resuming a run both write environment.json
        file = run_dir / "environment.json"
        return file.stat().st_mtime_ns if file.exists() else None

    before = last_start()
    try:
        yield
    except PrunedError:
        raise
    except Exception as error:
        if last_start() != before or (always and before is None):
            with contextlib.suppress(OSError):  # the disk may be full
                (run_dir / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise


def _can_print() -> bool:
    """Return whether stdout is writable, by printing an empty line. Its OSError has no filename."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _flush_output() -> None:
    if sys.stdout:
        sys.stdout.flush()


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty
        directory.rmdir()
