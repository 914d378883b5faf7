"""Console scripts as whole processes: exit codes, stderr, help, and the record that a failed run leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from blitz.cli import app
from blitz.config.paths import PROJECT
from tests import processes
from tests.conftest import QUICK, error_of


def test_unknown_key_in_a_process_of_its_own():
    """Stderr is that one line, and torch was not imported for it."""
    probe = "from blitz.train import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    arguments = [sys.executable, "-c", f"import sys; {probe}", "optimizr.lr=1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "blitz-train: optimizr.lr=1: no such key; did you mean optimizer.lr?\n"
    assert done.stdout == "False\n"


def test_sweep_file_without_m_is_refused(refused, tmp_path):
    message = refused("sweep=seeds", f"hydra.run.dir={tmp_path / 'run'}")
    assert message == "blitz-train: sweep=seeds: it runs several jobs; expected -m: blitz-train -m sweep=seeds"
    assert not (tmp_path / "run").exists()


def test_full_error_gives_the_traceback(train, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"data\.batch_size=5000"):
        train("data.batch_size=5000")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_variables_and_signal_handlers_are_restored(train, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    error_of(train, "data.batch_size=5000")
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_diverged_loss_names_step_and_lr_and_leaves_a_record(train, tmp_path):
    message = error_of(train, "optimizer=sgd", "optimizer.lr=1e30", "schedule=constant", *QUICK)
    assert re.match(r"blitz-train: the loss is (nan|inf) at step 2, with lr 1e\+30", message), message
    run = tmp_path / "run"
    assert "DivergenceError" in (run / "error.txt").read_text()
    assert not (run / "metrics.json").exists()
    assert not list(run.glob("checkpoints/*"))


def test_diverged_loss_is_a_floating_point_error(train, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(FloatingPointError, match="the loss is"):
        train("optimizer=sgd", "optimizer.lr=1e30", "schedule=constant", *QUICK)


def test_failure_of_a_resumed_run_is_recorded(unfinished, refused, monkeypatch):
    def broken(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("blitz.terminal.show_start", broken)
    assert "oops" in refused(f"resume={unfinished}")
    assert "KeyError: 'oops'" in (unfinished / "error.txt").read_text()


def test_failure_before_a_run_resumes_is_not_recorded(unfinished, refused):
    refused(f"resume={unfinished}", "seed=2")
    assert (unfinished / "error.txt").read_text() == "it failed"


def test_directory_with_other_files_is_kept(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    error_of(train, "data.batch_size=5000")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize(
    ("kib", "file"),
    [(1, "environment.json"), (200, "checkpoints/best.ckpt")],
    ids=["at the start", "at the first checkpoint"],
)
def test_full_disk(kib, file, tmp_path):
    """No file can grow past a limit: first environment.json cannot be written, then no checkpoint can."""
    run = tmp_path / "run"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({kib} * 1024,) * 2)"
    done = processes.run(f"{limit}; {processes.TRAIN}", *QUICK, f"hydra.run.dir={run}")
    assert done.returncode == 1
    assert done.stderr == f"blitz-train: File too large: {run / file}\n"
    if kib == 1:
        assert not run.exists()
    else:
        assert "File too large" in (run / "error.txt").read_text()
        assert not list(run.glob("checkpoints/*"))
        assert not (run / "metrics.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows os.kill ends a process, whatever the signal is")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_outside_of_training(number, status, tmp_path, monkeypatch, capsys):
    """The status is the shell's for this signal, and an empty run directory is removed."""
    run = tmp_path / "run"

    def stopped(cfg):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(sys, "argv", ["blitz-train", "device=cpu", f"hydra.run.dir={run}"])
    with pytest.raises(SystemExit) as stop:
        app.run(stopped, "train")
    assert stop.value.code == status
    assert not run.exists()
    assert capsys.readouterr().err == ""


def test_stopped_run_names_the_command_that_resumes_it(tmp_path, monkeypatch, capsys):
    run = tmp_path / "my run"
    monkeypatch.chdir(tmp_path)

    def stopped(cfg):
        (run / "environment.json").write_text(json.dumps({}))
        sys.exit(143)

    monkeypatch.setattr(sys, "argv", ["blitz-train", "device=cpu", f"hydra.run.dir='{run}'"])
    with pytest.raises(SystemExit):
        app.run(stopped, "train")
    assert capsys.readouterr().err == """to resume: blitz-train "resume='my run'"\n"""


@pytest.mark.parametrize("name", ["blitz-train", "blitz-eval"])
def test_help_lists_choices_and_keys(name, command, capsys):
    with pytest.raises(SystemExit) as stop:
        command(name, "--help")
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "device: auto, cpu" in out
    assert name in out
    if name == "blitz-train":
        assert "optimizer: adam, adamw" in out
        assert re.search(r"batch_size: \d+", out)
        assert "$(blitz-train -sc install=bash)" in out


def test_help_of_blitz_eval_lists_only_its_own_groups(command, capsys):
    with pytest.raises(SystemExit):
        command("blitz-eval", "--help")
    groups = capsys.readouterr().out.partition("Config groups")[2].partition("Config keys")[0]
    assert "device: " in groups
    assert "model: " not in groups


def test_help_does_not_offer_parts_of_configs(command, capsys):
    with pytest.raises(SystemExit):
        command("blitz-train", "--help")
    assert "_base" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["blitz-train", "blitz-eval"])
def test_resolved_config_is_printed(name, command, capsys):
    command(name, "--cfg", "job", "--resolve")
    out = capsys.readouterr().out
    assert re.search(r"^(run|output)_dir: \S+logs", out, re.MULTILINE)
    assert "${" not in out


def test_numeric_names_of_directories(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "1e3", "true"):
        command("blitz-train", "device=cpu", *QUICK, f"hydra.run.dir={name}")
        assert (tmp_path / name / "metrics.json").exists()
    command("blitz-eval", "run=1e3", "device=cpu", "hydra.run.dir=0.5")
    assert (tmp_path / "0.5" / "metrics.json").exists()
    command("blitz-train", "init_from=2024", "device=cpu", *QUICK, "hydra.run.dir=1_0")
    assert (tmp_path / "1_0" / "metrics.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locale")
def test_terminal_that_shows_only_ascii(tmp_path):
    ascii_only = "import sys; [stream.reconfigure(encoding='ascii') for stream in (sys.stdout, sys.stderr)]"
    overrides = (*QUICK, "device=cpu", f"hydra.run.dir={tmp_path / 'run'}")
    ended = processes.run(f"{ascii_only}; {processes.TRAIN}", *overrides)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1?32?32" in ended.stdout

    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    arguments = [sys.executable, "-m", "blitz.train", *overrides, "data.root=ü"]
    done = subprocess.run(arguments, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert b"bytes that this locale cannot decode; expected UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error on Windows")
@pytest.mark.parametrize(
    ("arguments", "fork"), [(["--help"], False), (["--cfg", "job"], True), (["device=cpu", *QUICK], True)], ids=str
)
def test_output_that_nobody_reads(arguments, fork, tmp_path):
    """As in ``blitz-train | head``: no traceback, whatever is printed after the reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    overrides = (*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    done = processes.run(processes.TRAIN, *overrides, stdout=writer, fork=fork)
    os.close(writer)
    assert done.returncode in (0, 1)
    assert "BrokenPipe" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize(("arguments", "fork"), [(["--help"], False), (["device=cpu", *QUICK], True)], ids=str)
def test_output_that_cannot_be_written(arguments, fork, tmp_path):
    overrides = (*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    with Path("/dev/full").open("w") as full:
        done = processes.run(processes.TRAIN, *overrides, stdout=full.fileno(), fork=fork)
    line = "blitz-train: stdout: No space left on device; expected an output that can be written\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be deleted")
def test_run_directory_that_is_deleted_during_training(train, tmp_path, monkeypatch):
    def delete(self, trainer, *_):
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr("blitz.callback.progress.Progress.on_train_start", delete)
    message = error_of(train, *QUICK)
    assert str(tmp_path / "run") in message
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_warning_of_a_library_adds_no_line(train, monkeypatch, capsys):
    def warn(self, *_):
        warnings.warn_explicit("of a library", UserWarning, torch.__file__, 1)
        warnings.warn_explicit("of the project", UserWarning, str(PROJECT / "src" / "own.py"), 1)

    monkeypatch.setattr("blitz.callback.progress.Progress.on_train_start", warn)
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        train(*QUICK)
    err = capsys.readouterr().err
    assert "of a library" not in err
    assert "of the project" in err
