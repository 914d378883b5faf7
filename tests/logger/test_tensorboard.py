"""The TensorBoard logger: the events in its files, also after a resume or on a full disk."""

import itertools
import os
import sys
import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from blitz.logger.tensorboard import TensorBoardLogger
from tests import processes


@pytest.fixture
def later_files(monkeypatch):
    """Have each writer name its file as that of a later process, which a reader opens later."""
    hosts = itertools.count()
    monkeypatch.setattr("socket.gethostname", lambda: f"host{next(hosts):03}")


def read(path):
    return EventAccumulator(str(path)).Reload()


def steps(path, name="loss"):
    return [event.step for event in read(path).Scalars(name)]


def hparams_of(path):
    content = read(path).PluginTagToContent(metadata.PLUGIN_NAME)
    return {tag: HParamsPluginData.FromString(data) for tag, data in content.items()}


def test_metrics_are_logged_without_the_epoch(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=3)
    logger.finalize("success")
    assert read(tmp_path).Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss")] == [(3, 0.5)]
    assert not (tmp_path / "hparams.yaml").exists()


@pytest.mark.parametrize(("status", "code"), [("success", 1), ("failed", 2)])
def test_hyper_parameters_come_with_a_status_and_without_columns(status, code, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"optimizer": "SGD", "optimizer.lr": 0.1, "seed": 1})
    logger.finalize(status)
    written = hparams_of(tmp_path)
    start = written[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    assert start["optimizer"].string_value == "SGD"
    assert (start["optimizer.lr"].number_value, start["seed"].number_value) == (0.1, 1)
    assert written[metadata.SESSION_END_INFO_TAG].session_end_info.status == code
    assert metadata.EXPERIMENT_TAG not in written


def test_options_reach_the_writer(tmp_path):
    logger = TensorBoardLogger(tmp_path, prefix="run", filename_suffix=".digits")
    logger.log_metrics({"loss": 0.5}, 0)
    logger.finalize("success")
    assert [path.suffix for path in tmp_path.iterdir()] == [".digits"]
    assert read(tmp_path).Tags()["scalars"] == ["run-loss"]
    with pytest.raises(TypeError, match="max_que"):
        _ = TensorBoardLogger(tmp_path, max_que=5).experiment


@pytest.mark.usefixtures("later_files")
def test_logging_after_the_end_opens_a_new_file(tmp_path):
    """The test of a run comes after the end of its training."""
    logger = TensorBoardLogger(tmp_path)
    for step, stage in enumerate(("fit", "test")):
        logger.log_metrics({stage: 0.5}, step)
        logger.finalize("success")
    assert read(tmp_path).Tags()["scalars"] == ["fit", "test"]
    assert len(list(tmp_path.iterdir())) == 2
    logger.finalize("success")
    assert len(list(tmp_path.iterdir())) == 2, "nothing was logged in between"


@pytest.mark.usefixtures("later_files")
def test_a_resumed_run_shows_each_step_once(tmp_path):
    interrupted = TensorBoardLogger(tmp_path)
    for step in range(3):
        interrupted.log_metrics({"loss": 1.0}, step)
    position = interrupted.position(step=2)
    interrupted.log_metrics({"loss": 9.0}, 3)
    interrupted.finalize("failed")
    lost = TensorBoardLogger(tmp_path)
    lost.log_metrics({"loss": 9.0}, 4)
    lost.finalize("failed")
    resumed = TensorBoardLogger(tmp_path)
    resumed.truncate_to(position)
    for step in (3, 4):
        resumed.log_metrics({"loss": 1.0}, step)
    resumed.finalize("success")
    events = read(tmp_path).Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(step, 1.0) for step in range(5)]


@pytest.mark.usefixtures("later_files")
def test_a_server_drops_the_steps_that_it_has_read(tmp_path):
    interrupted = TensorBoardLogger(tmp_path)
    for step in range(3):
        interrupted.log_metrics({"loss": 1.0}, step)
    position = interrupted.position(step=2)
    interrupted.log_metrics({"loss": 9.0}, 3)
    interrupted.finalize("failed")
    server = read(tmp_path)
    assert len(server.Scalars("loss")) == 4
    resumed = TensorBoardLogger(tmp_path)
    resumed.truncate_to(position)
    resumed.log_metrics({"loss": 1.0}, 3)
    resumed.finalize("success")
    events = server.Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(step, 1.0) for step in range(4)]


def test_the_clock_goes_back_between_attempts(tmp_path, monkeypatch):
    """TensorBoard reads files in the order of their names, and never one that comes before those that it has read."""
    clock, position, done = time.time, None, 0
    for hour, saves in enumerate((True, True, False, True)):
        monkeypatch.setattr(time, "time", lambda: clock() - 3600 * hour)  # noqa: B023
        logger = TensorBoardLogger(tmp_path)
        if position:
            logger.truncate_to(position)
        for step in (done, done + 1):
            logger.log_metrics({"loss": float(step)}, step)
        if saves:
            position, done = logger.position(step=done + 1), done + 2
        logger.finalize("failed")
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss")] == [(n, float(n)) for n in range(6)]


def test_an_empty_position_rewinds_to_the_beginning(tmp_path):
    interrupted = TensorBoardLogger(tmp_path)
    interrupted.log_metrics({"loss": 9.0}, 3)
    interrupted.finalize("failed")
    resumed = TensorBoardLogger(tmp_path)
    resumed.truncate_to({})
    resumed.log_metrics({"loss": 1.0}, 0)
    resumed.finalize("success")
    assert steps(tmp_path) == [0]


def test_truncation_never_lengthens_a_file(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    position = logger.position(step=0)
    (name,) = position["sizes"]
    logger.finalize("success")
    os.truncate(tmp_path / name, 10)
    TensorBoardLogger(tmp_path).truncate_to(position)
    assert (tmp_path / name).stat().st_size == 10


def test_excepthook_is_changed_only_while_a_writer_is_open(tmp_path):
    before = threading.excepthook
    logger = TensorBoardLogger(tmp_path)
    assert threading.excepthook is before
    logger.log_metrics({"loss": 1.0}, 0)
    assert threading.excepthook is not before
    logger.finalize("success")
    assert threading.excepthook is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_full_disk_is_one_exception(tmp_path):
    """The thread that writes the events prints no traceback of its own; other threads still do."""
    script = f"""
import resource, threading, time
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from blitz.logger.tensorboard import TensorBoardLogger
logger = TensorBoardLogger({str(tmp_path)!r})
other = threading.Thread(target=lambda: print(undefined))
logger.log_metrics({{"loss": 1.0}}, 0)
other.start()
other.join()
try:
    for step in range(10_000):
        logger.log_metrics({{"loss": 1.0}}, step)
        logger.experiment.flush()
except OSError as error:
    print("OSError", error.errno)
logger.finalize("failed")
"""
    done = processes.run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "OSError 27\n"
    assert done.stderr.count("Traceback") == 1
    assert "NameError: name 'undefined'" in done.stderr
