"""The config and the overrides that ``resume=`` resolves to; a refused command line changes no file."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig

import blitz.train
from blitz.cli import launch
from blitz.config.paths import as_override
from blitz.runs import overrides
from blitz.runs.folder import Run
from blitz.training import build
from tests.conftest import OVERRIDES, QUICK, call, contents


@pytest.fixture
def resume(command, monkeypatch):
    """``resume(*arguments)`` returns the config and the overrides that the resumed run would get."""
    received = []

    def run_job(task, cfg, explain):
        received.append((cfg, list(HydraConfig.get().overrides.task)))

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("blitz.cli.launch.run_job", run_job)
            command("blitz-train", *arguments)
        return received.pop()

    return run


def test_resumed_config_is_the_recorded_one_in_the_current_directory(unfinished, finished, resume):
    cfg, new = resume(f"resume={unfinished}")
    assert new == []
    assert cfg.resume == str(unfinished)
    recorded = yaml.safe_load((finished / "config.yaml").read_text())
    resumed = build.resolve(cfg)
    assert resumed["run_dir"] == str(unfinished)
    assert resumed == json.loads(json.dumps(recorded).replace(str(finished), str(unfinished)))
    assert str(finished) not in str(resumed)


def test_references_between_keys_are_restored(train, resume):
    run = train(*QUICK, "data.num_workers=2", "callback.last.every_n_steps=${data.num_workers}")
    (run / "metrics.json").unlink()
    cfg, new = resume(f"resume={run}", "data.num_workers=3")
    assert (new, cfg.callback.last.every_n_steps) == (["data.num_workers=3"], 3)
    assert "model.in_channels" not in build.hparams(cfg), "a key that is interpolated is no column"


def test_number_of_processes_follows_trainer_devices(unfinished, resume):
    cfg, new = resume(f"resume={unfinished}", "device=ddp_cpu", "trainer.devices=1")
    (unfinished / "config.yaml").write_text(yaml.safe_dump(build.resolve(cfg)))
    cfg, new = resume(f"resume={unfinished}", "trainer.devices=3")
    assert (new, launch.num_local_ranks(cfg)) == (["trainer.devices=3"], 3)


def test_whole_command_line_may_be_repeated(unfinished, resume):
    _, new = resume(*OVERRIDES, f"resume={unfinished}", f"hydra.run.dir={unfinished}")
    assert new == []


def test_overrides_that_change_no_value_are_not_recorded(unfinished, resume):
    _, new = resume(f"resume={unfinished}", "optimizer.lr=1e-2", "data.batch_size=32", "data=digits")
    assert new == []


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_epochs=7", "trainer.max_steps=9", "data.root=elsewhere", "data.num_workers=3",
        "data.memory_limit=1.5", "data.loader=workers", "trainer.profiler=simple",
        "callback.progress.every_n_steps=5", "callback.last.every_n_steps=7",
    ],
)  # fmt: skip
def test_allowed_overrides(override, unfinished, resume, capsys):
    cfg, new = resume(f"resume={unfinished}", override)
    key, value = override.split("=")
    assert new == [override]
    assert str(overrides._select(cfg, key)).lower() == value
    assert capsys.readouterr().out == "", "the results stay equal to the last bit"


def test_overrides_that_change_rounding_are_announced(unfinished, resume, capsys):
    cfg, new = resume(f"resume={unfinished}", "device=ddp_cpu", "trainer.devices=1", "threads=2")
    assert new == ["device=ddp_cpu", "threads=2"]
    assert (cfg.trainer.strategy._target_, cfg.trainer.devices, cfg.threads) == ("blitz.device.ddp.DDP", 1, 2)
    notice = "device=ddp_cpu threads=2: from here on equal to an uninterrupted run up to rounding only\n"
    assert capsys.readouterr().out == notice


REFUSED = {  # the override, and the recorded value that the message shows
    "seed=2": "seed=1",
    "data.batch_size=64": "data.batch_size=32",
    "data.val_fraction=0": "data.val_fraction=0.1",
    "optimizer.lr=0.1": "optimizer.lr=0.01",
    "optimizer=adam": "optimizer._target_=torch.optim.SGD",
    "model.in_channels=3": "model.in_channels=1",
    "experiment=mnist": "experiment=null",
    "debug=limit": "debug=null",
    "trainer.limit_train_batches=4": "trainer.limit_train_batches=3",
    "trainer.precision=bf16-mixed": "trainer.precision=32-true",
    "callback.checkpoint.monitor=val/loss": "callback.checkpoint.monitor=val/acc",
    "callback=early_stopping": "callback.early_stopping._target_=null",
    "logger=none": "logger.tensorboard._target_=blitz.logger.tensorboard.TensorBoardLogger",
    "+logger.csv._target_=lightning.pytorch.loggers.CSVLogger": "logger.csv._target_=null",
    "+trainer.benchmark=true": "trainer.benchmark=null",
    "~callback.progress": "callback.progress._target_=blitz.callback.progress.Progress",
    "compile=true": "compile=false",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused_overrides(override, unfinished, refused, capsys):
    before = contents(unfinished)
    message = refused(f"resume={unfinished}", override)
    start = f"blitz-train: {override}: {unfinished} has {REFUSED[override]} and keeps it; to start a new run"
    assert message.startswith(start), message
    assert f"blitz-train init_from={unfinished} " in message
    assert override.strip("~") in message.partition("init_from=")[2]
    assert contents(unfinished) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("override", ["trainer.max_epochs=2", "trainer.max_steps=50"])
def test_schedule_of_fixed_length_is_not_extended(override, train, refused):
    run = train(*QUICK, "schedule=onecycle")
    before = contents(run)
    message = refused(f"resume={run}", override)
    assert f"{override}: the schedule, OneCycleLR, was planned for {override.partition('=')[0]}=" in message
    assert f"blitz-train init_from={run} {override} " in message
    assert contents(run) == before


def test_advised_command_starts_a_new_run(unfinished, refused, command, tmp_path):
    arguments = refused(f"resume={unfinished}", "data.batch_size=64").partition("blitz-train init_from=")[2]
    command("blitz-train", *f"init_from={arguments}".split(), f"hydra.run.dir={tmp_path / 'new'}")
    assert Run(tmp_path / "new").config["data"]["batch_size"] == 64


def test_finished_run_is_reported_and_not_changed(finished, command, capsys):
    before = contents(finished)
    accuracy = json.loads((finished / "metrics.json").read_text())["test/acc"] * 100
    for arguments in ([], ["trainer.max_epochs=1"], ["threads=2"]):
        command("blitz-train", f"resume={finished}", *arguments)
        assert capsys.readouterr().out == (
            f"{finished} is finished, with a test accuracy of {accuracy:.2f} %; "
            f"to train longer: blitz-train resume={finished} trainer.max_epochs=2\n"
        )
    assert contents(finished) == before


def test_finished_run_trains_longer(finished, tmp_path, command):
    path = shutil.copytree(finished, tmp_path / "run")
    (path / "config.4711.tmp").touch()
    command("blitz-train", f"resume={path}", "trainer.max_epochs=2", "callback.progress.every_n_steps=5")
    run = Run(path)
    assert run.config["trainer"]["max_epochs"] == 2
    assert (run.config["resume"], run.config["run_dir"]) == (None, str(path))
    assert run.overrides == [*OVERRIDES, "trainer.max_epochs=2", "callback.progress.every_n_steps=5"]
    assert run.metrics
    (resumed,) = run.environment["resumed"]
    assert resumed.keys() == {"time", "host", "pid", "command", "git_commit", "differs"}
    assert (resumed["pid"], resumed["differs"]) == (os.getpid(), [])
    assert not list(path.glob("*.tmp"))
    config = (path / "config.yaml").read_bytes()
    (path / "metrics.json").unlink()
    command("blitz-train", f"resume={path}")
    assert (path / "config.yaml").read_bytes() == config
    assert len(run.environment["resumed"]) == 2
    for file in path.glob("checkpoints/*"):
        assert torch.load(file, weights_only=True)["config"]["resume"] is None


@pytest.mark.parametrize("name", ["nowhere", "empty", "eval", "damaged"])
def test_directory_that_holds_no_run(name, finished, command, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / name
    problem = {
        "nowhere": "resume=nowhere: no such directory; expected a run directory",
        "empty": "resume=empty: it holds no config.yaml; expected a run directory",
        "eval": "resume=eval: this is the directory of an evaluation; expected a training run",
        "damaged": "config.yaml: cannot be read (expected a dict, got None); expected the file as the run wrote it",
    }[name]
    if name == "eval":
        command("blitz-eval", f"run={finished}", f"hydra.run.dir={directory}")
    elif name != "nowhere":
        directory.mkdir()
    if name == "damaged":
        (directory / "config.yaml").touch()
    before = contents(tmp_path)
    assert problem in refused(f"resume={name}")
    assert contents(tmp_path) == before
    assert directory.exists() == (name != "nowhere")


def test_run_is_resumed_alone_and_in_its_own_directory(unfinished, refused, tmp_path):
    before = contents(tmp_path)
    problems = {
        "a run resumes in its own directory": [f"hydra.run.dir={tmp_path / 'other'}"],
        "a sweep cannot resume a single run; leave out -m": ["-m"],
        f"resume={unfinished} and reproduce=b: they exclude each other; expected one of them": ["reproduce=b"],
        "init_from=": ["init_from=b"],
    }
    for problem, arguments in problems.items():
        assert problem in refused(*arguments, f"resume={unfinished}")
    assert "leave out -m" in refused("-m", f"resume={unfinished},x")
    assert contents(tmp_path) == before
    assert not (tmp_path / "other").exists()


def test_resume_auto_starts_a_run_and_then_resumes_it(refused, resume, tmp_path, unfinished):
    assert "expected name=NAME or hydra.run.dir=DIR" in refused("resume=auto")
    run = tmp_path / "run"
    arguments = (*OVERRIDES, f"init_from={unfinished}", "resume=auto", f"hydra.run.dir={run}")
    with pytest.MonkeyPatch.context() as patch:
        call(patch, blitz.train.main, "blitz-train", *arguments)
    assert Run(run).config["resume"] is None
    assert "resume=auto" not in Run(run).overrides
    (run / "metrics.json").unlink()
    cfg, new = resume(*arguments)
    assert (cfg.resume, new) == (str(run), [])


def test_answer_without_training_does_not_import_torch(finished):
    probe = "import sys; from blitz.train import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for arguments, status in ((["seed=2"], 1), ([], 0)):
        done = subprocess.run(
            [sys.executable, "-c", probe, f"resume={finished}", *arguments], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (status, "False")


def test_run_with_spaces_and_quotes_in_its_path(finished, tmp_path, monkeypatch, capsys, command):
    """The command that the message advises works when it is pasted."""
    run = shutil.copytree(finished, tmp_path / "it's, a [run]")
    command("blitz-train", *shlex.split(as_override("resume", run)))
    advised = capsys.readouterr().out.partition("to train longer: blitz-train ")[2]
    command("blitz-train", *shlex.split(advised))
    assert Run(run).config["trainer"]["max_epochs"] == 2
    assert Path(Run(run).config["run_dir"]) == run
