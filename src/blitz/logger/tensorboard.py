"""Log to TensorBoard, with an HPARAMS tab that compares runs of different kinds, and with files that resume."""

import contextlib
import inspect
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from blitz.logger import sync_to_disk
from blitz.runs.tags import tag

PREFIX, RENAMED = "events.out.tfevents.", ".was."
ExceptHook = Callable[[threading.ExceptHookArgs], Any]


class Options(TypedDict, total=False):
    """The options of Lightning's logger, which include those of SummaryWriter."""

    log_graph: bool
    default_hp_metric: bool
    prefix: str
    sub_dir: str | None
    comment: str
    purge_step: int | None
    max_queue: int
    flush_secs: int
    filename_suffix: str


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Write a run's hyper-parameters when it starts and its status when it ends, but no list of the HPARAMS columns.

    Lightning's logger writes such a list with each run, and TensorBoard uses the list of one run for all runs. Without
    a list, TensorBoard shows the columns of all runs. Metrics have the names of ``runs.tags``. The metric ``epoch``,
    which Lightning adds to all others, is left out.
    """

    def __init__(self, save_dir: str | Path, name: str = "", version: str = "", **options: Unpack[Options]) -> None:
        super().__init__(save_dir, name=name, version=version, **options)
        logger_options = inspect.signature(loggers.TensorBoardLogger).parameters
        self._writer_options = {key: value for key, value in options.items() if key not in logger_options}
        self._writer: Any = None  # a SummaryWriter while events are written
        self._excepthook = threading.excepthook

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The open SummaryWriter. Each one begins a new event file."""
        if self._writer is None:
            self._writer = SummaryWriter(self.log_dir, **self._writer_options)
            self._excepthook, threading.excepthook = threading.excepthook, silence_writer(threading.excepthook)
        return self._writer

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Write ``params`` by dotted key. Values other than numbers and texts are written as text."""
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in params.items()}
        _, session_start, _ = hparams(plain, {})  # type: ignore[no-untyped-call]
        self.experiment.file_writer.add_summary(session_start)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        try:
            tags = {name: tag(name) for name in metrics if name != "epoch"}
            super().log_metrics({new: metrics[name] for name, new in tags.items() if new is not None}, step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):  # Lightning reports a full disk as a value of the wrong type
                raise error.__cause__ from None
            raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._writer is None:
            return
        # If a run fails because the disk is full, this fails too, and must not hide the reason.
        with contextlib.suppress(OSError) if status == "failed" else contextlib.nullcontext():
            self._writer.file_writer.add_summary(session_end(status))
            self._writer.close()
        self._writer = None
        threading.excepthook = self._excepthook

    def position(self, step: int) -> dict[str, Any]:
        self.experiment.flush()
        files = self._files()
        sync_to_disk(max(files, key=lambda path: path.stat().st_mtime_ns))
        return {"step": step, "sizes": {_first_name(path): path.stat().st_size for path in files}}

    def truncate_to(self, position: dict[str, Any]) -> None:
        sizes = position.get("sizes", {})
        for path in self._files():
            name = _first_name(path)
            if name in sizes:
                os.truncate(path, min(sizes[name], path.stat().st_size))  # a larger size would lengthen the file
            else:
                path.unlink()
        self._sort_before_new_file()
        # Have a running server drop the later steps that it has already read.
        restart = Event(step=position.get("step", -1) + 1, session_log=SessionLog(status=SessionLog.START))
        self.experiment.file_writer.add_event(restart)

    def _sort_before_new_file(self) -> None:
        """Rename the existing files if the clock was set back, so that the new file still sorts after them.

        TensorBoard reads files in the order of their names, which begin with the time of creation. SummaryWriter does
        not let a caller choose the name of the new file.
        """
        files, now = self._files(), f"{PREFIX}{int(time.time()):010d}"
        if files and files[-1].name[: len(now)] > now:
            for index, path in enumerate(files):
                path.rename(path.with_name(f"{PREFIX}{index:010d}{RENAMED}{_first_name(path)}"))

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob(f"{PREFIX}*"))

    def save(self) -> None:
        """Do nothing. Lightning's logger writes hparams.yaml here, but config.yaml is in the same directory."""


def _first_name(path: Path) -> str:
    """Return the name that an event file had before it was renamed."""
    return path.name.rpartition(RENAMED)[2]


def silence_writer(excepthook: ExceptHook) -> ExceptHook:
    """Return a hook for ``threading.excepthook`` that prints nothing if a thread of TensorBoard fails.

    That thread writes the events. Its exception is raised again in the main thread by the next call of the writer, and
    a full disk should not be reported twice. All other threads are left to ``excepthook``.
    """

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            excepthook(arguments)

    return hook


def session_end(status: str) -> Summary:
    """Return the summary that ends a run in the HPARAMS tab. torch offers only that of a successful run."""
    code = STATUS_SUCCESS if status == "success" else STATUS_FAILURE
    end = SessionEndInfo(status=code, end_time_secs=time.time())
    described = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described)])
