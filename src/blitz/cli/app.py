"""Run an entry point under Hydra, and answer whatever goes wrong in one line."""

import contextlib
import difflib
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from blitz.cli import launch
from blitz.config.checks import check_values
from blitz.config.keys import leaves
from blitz.config.paths import CONFIGS, PROJECT, as_override, shorten
from blitz.config.schema import register
from blitz.process import ranks
from blitz.runs import lock, overrides


def _end(number: int, _: Any) -> None:
    """Where the run is not just training. Lightning's own would end Ctrl-C with status 1, and SIGTERM with 0."""
    sys.exit(128 + signal.SIGINT if number == signal.SIGINT else ranks.STOPPED)


@ranks.answered(_end)
def run(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose ``configs/<config_name>.yaml`` with the command line and call ``task`` on it, once or for each job.

    Exits with status 1 and one line on stderr if anything fails; ``HYDRA_FULL_ERROR=1`` gives the traceback.
    """
    register()
    verbose = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands the exception to us rather than printing it
    failures: list[BaseException] = []
    started = ranks.launched()
    try:
        if started and started.rank > 0:  # rank 0 alone reads the command line
            if job := ranks.share():
                launch.take_part(task, job)
            return
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(
            _job(task, config_name, failures)
        )()
        if failures:
            raise failures[0]
    except Exception as error:
        if verbose:
            raise
        rank = f"rank {started.rank}: " if started and started.rank else ""
        sys.exit(f"blitz-{config_name}: {rank}{explain(error, config_name, sys.argv[1:])}")
    finally:
        if started and started.rank == 0 and started.of > 1:
            with contextlib.suppress(Exception):  # a meeting that failed has been told
                ranks.share(b"")  # where it came to no job, the others are still waiting for one
        if not verbose:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _job(
    task: Callable[[DictConfig], Any], config_name: str, failures: list[BaseException]
) -> Callable[[DictConfig], Any]:
    """One job: check the config, run the task. A failure leaves a record where a run has begun, nothing otherwise."""

    def job(cfg: DictConfig) -> Any:
        config = HydraConfig.get()
        folder = Path(config.runtime.output_dir)
        multirun = config.mode == RunMode.MULTIRUN
        fresh = not any(folder.iterdir())
        try:
            with lock.held(folder), _recorded(folder, always=multirun):
                if "resume" in cfg:
                    settled = overrides.settle(cfg, folder, config.overrides.task)
                    if settled is None:
                        return None
                    cfg, words = settled
                    with read_write(config):  # type: ignore[arg-type]
                        config.overrides.task = words
                check_values(cfg)
                return launch.start(task, cfg, partial(explain, config_name=config_name, argv=[]))
        except Exception as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(folder)
            if fresh:
                with contextlib.suppress(OSError):  # something is in it
                    folder.rmdir()
            if multirun:
                name = " ".join(config.overrides.task)
                print(f"failed: {name}: {explain(error, config_name, [])}", file=sys.stderr, flush=True)
                raise
            failures.append(error)  # raised again by run(): from here Hydra would announce it in a line of its own
        except SystemExit:  # a signal has stopped it
            if (folder / "environment.json").exists() and config_name == "train":
                print(f"to go on: blitz-train {as_override('resume', shorten(folder))}", file=sys.stderr, flush=True)
            elif fresh:
                with contextlib.suppress(OSError):  # something is in it
                    folder.rmdir()
            raise
        finally:
            gc.collect()  # trainer, data and callbacks refer to each other: the images would stay until Python ends

    return job


@contextlib.contextmanager
def _recorded(folder: Path, always: bool) -> Iterator[None]:
    """A failure's traceback goes into error.txt where a run had begun or gone on in the folder, or ``always``."""

    def mark() -> int | None:  # both write it
        file = folder / "environment.json"
        return file.stat().st_mtime_ns if file.exists() else None

    before = mark()
    try:
        yield
    except Exception as error:
        if always or mark() != before:
            with contextlib.suppress(OSError):  # the disk may be full
                (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise


def explain(error: BaseException, config_name: str, argv: list[str]) -> str:
    """What went wrong, in one line: the bad value and the choices, or, of a bug, where it happened."""
    for cause in _chain(error):
        if isinstance(cause, ValueError | FloatingPointError | ranks.RankError) and _raised_by_us(cause):
            return " ".join(str(cause).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options or () if not option.startswith("_")]
        return f"{group}={choice}: no such choice{_nearest(choice, options)}; there are {', '.join(sorted(options))}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write key=value, and quote values that hold spaces, commas or brackets"
    override = re.match(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", str(error))
    if override and isinstance(error, ConfigCompositionException):
        return _explain_override(override[1], error, config_name, argv)
    if isinstance(error, HydraException | OmegaConfBaseException):
        words = (str(cause).partition("\n")[0] for cause in (error, error.__cause__) if cause)
        return ": ".join(dict.fromkeys(words)).removeprefix("Error merging override ")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return (
        f"{type(error).__name__}: {' '.join(str(error).split())} ({_origin(error)}; HYDRA_FULL_ERROR=1 shows all of it)"
    )


def _explain_override(key: str, error: BaseException, config_name: str, argv: list[str]) -> str:
    cause = error.__cause__
    written = next((word for word in argv if word.lstrip("+~").startswith(key)), key)
    if cause is not None and "not in" not in str(cause):
        return f"{written}: {str(cause).splitlines()[0]}"
    known = _known_keys(config_name, [word for word in argv if word != written])
    near = _nearest(key, known)
    add = f"; a new key is added with +{written.lstrip('+~')}" if "." in key and not near else ""
    return f"{written}: no such key{near or _siblings(key, known)}{add}"


def _known_keys(config_name: str, argv: list[str]) -> list[str]:
    """Every key of the config as the other overrides compose it, groups and dotted keys alike."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, [word for word in argv if not word.startswith("-")])
        except HydraException:  # the command line holds a second mistake
            cfg = hydra.compose(config_name)
    keys = {str(key) for key in cfg}
    for leaf, _ in leaves(OmegaConf.to_container(cfg)):
        parts = leaf.split(".")
        keys.update(".".join(parts[: n + 1]) for n in range(len(parts)))
    return sorted(keys)


def _siblings(key: str, known: list[str]) -> str:
    parent, _, _ = key.rpartition(".")
    names = [k for k in known if k.rpartition(".")[0] == parent]
    return f"; {parent or 'the config'} has {', '.join(n.rpartition('.')[2] for n in names)}" if names else ""


def _nearest(word: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(word, choices, 1)
    return f", did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []  # one that is raised again while it is handled may lead back to itself
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _raised_by_us(error: BaseException) -> bool:
    """Whether the project's own code raised it: its ValueErrors are written for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = isinstance(error, OmegaConfBaseException)  # carries the traceback of the error that it stands for
    return bool(frames) and not foreign and frames[-1].filename.startswith(str(PROJECT / "src"))


def _origin(error: BaseException) -> str:
    """The innermost line of the project's own code that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(str(PROJECT / "src"))] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
