"""Lightning's TensorBoard logger, for runs that go on, with an HPARAMS tab that compares runs of different kinds."""

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard.summary import hparams

from blitz.logger import to_disk


class TensorBoardLogger(loggers.TensorBoardLogger):
    """A run's hyper-parameters are written when it starts and its end when it ends, and no list of columns.

    TensorBoard then shows the union of all runs' columns; Lightning's logger writes a list with each run, and
    TensorBoard takes one run's for all. The figure ``epoch``, which Lightning adds to every other, is left out: it
    would be the first curve and the first column.

    A run that goes on goes on in the same files: ``mark`` says how much has been written, ``rewind`` cuts off the rest.
    """

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Write ``params``, dotted keys to plain values."""
        _, start, _ = hparams(params, {})  # type: ignore[no-untyped-call]
        self.experiment._get_file_writer().add_summary(start)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        try:
            super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):  # Lightning says of a full disk too that the value is of no kind
                raise error.__cause__ from None
            raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            # What a failed run cannot write either, as on a full disk, must not hide why it failed.
            with contextlib.suppress(OSError) if status == "failed" else contextlib.nullcontext():
                self.experiment._get_file_writer().add_summary(_session_end(status))
                self.experiment.close()

    def position(self, step: int) -> dict[str, Any]:
        self.experiment.flush()
        files = self._files()
        if files:
            to_disk(files[-1])
        return {"step": step, "sizes": {path.name: path.stat().st_size for path in files}}

    def truncate_to(self, position: dict[str, Any]) -> None:
        """To be called before anything is logged; an empty mark is the start."""
        sizes = position.get("sizes", {})
        self._kwargs["purge_step"] = position.get("step", -1) + 1  # for a server that has read what is cut off
        for path in self._files():
            if path.name in sizes:
                os.truncate(path, min(sizes[path.name], path.stat().st_size))  # it would lengthen a shorter one
            else:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))

    def save(self) -> None:
        """Not Lightning's hparams.yaml: config.yaml stands in the same folder."""


def _hush(arguments: threading.ExceptHookArgs) -> None:
    """For ``threading.excepthook``: what the writer's thread raises is raised again where something is logged next."""
    if not isinstance(arguments.thread, _AsyncWriterThread):
        threading.__excepthook__(arguments)


threading.excepthook = _hush


def _session_end(status: str) -> Summary:
    """What torch writes for a success alone."""
    code = STATUS_SUCCESS if status == "success" else STATUS_FAILURE
    end = SessionEndInfo(status=code, end_time_secs=time.time())
    described = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described)])
