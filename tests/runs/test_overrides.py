"""What resume=, init_from= and reproduce= make of a command line; what is refused leaves everything as it was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig

import blitz.train
import blitz.training.build
from blitz import runs
from blitz.data.image_folder import ImageFolder
from blitz.runs import folder as folder_module
from blitz.runs import lock, overrides
from blitz.runs.folder import Run
from tests.cli.test_errors import fails
from tests.conftest import QUICK, call

WORDS = ("device=cpu", *QUICK, "seed=1", "schedule=constant", "optimizer=sgd", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a constant schedule; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, blitz.train.main, "blitz-train", *WORDS, f"hydra.run.dir={run}")
    return run


@pytest.fixture
def unfinished(finished, tmp_path):
    """The same, moved, as it was before its end."""
    run = shutil.copytree(finished, tmp_path / "moved")
    (run / "metrics.json").unlink()
    (run / "error.txt").write_text("it failed")
    return run


@pytest.fixture
def resume(command, monkeypatch):
    """``resume(*words)``: the config and the words that are handed to a run that goes on."""
    handed = []

    def start(task, cfg, explain):
        handed.append((cfg, list(HydraConfig.get().overrides.task)))

    def run(*words):
        with monkeypatch.context() as patch:
            patch.setattr("blitz.cli.launch.run_job", start)
            command("blitz-train", *words)
        return handed.pop()

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command, *words) -> str:
    return fails(lambda *words: command("blitz-train", *words), *words)


def test_the_words_are_those_of_the_schedules():
    assert overrides.LAID_OUT == TOTAL_STEPS


# -- resume --------------------------------------------------------------------------------------------------------


def test_the_config_is_the_runs_own_wherever_it_is_now(unfinished, finished, resume):
    cfg, words = resume(f"resume={unfinished}")
    assert words == []
    recorded = yaml.safe_load((finished / "config.yaml").read_text())
    there = blitz.training.build.resolve(cfg)
    assert there["run_dir"] == str(unfinished)
    assert cfg.resume == str(unfinished)
    moved = json.loads(json.dumps(recorded).replace(str(finished), str(unfinished)))
    assert there == moved
    assert str(finished) not in str(there)


def test_what_followed_another_value_follows_it_again(train, resume):
    run = train(*QUICK, "device=ddp_cpu", "trainer.devices=1")
    (run / "metrics.json").unlink()
    cfg, words = resume(f"resume={run}", "trainer.devices=3")
    assert (words, cfg.device.processes) == (["trainer.devices=3"], 3)
    hparams = blitz.training.build.hparams(cfg)
    assert "model.in_channels" not in hparams, "what is interpolated is no column"


def test_a_jobs_whole_command_line_may_be_repeated(unfinished, resume):
    _, words = resume(*WORDS, f"resume={unfinished}", f"hydra.run.dir={unfinished}")
    assert words == []
    _, words = resume(f"resume={unfinished}", "optimizer.lr=1e-2", "data.batch_size=32", "data=digits")
    assert words == [], "they say what is so already"


@pytest.mark.parametrize(
    "word",
    [
        "trainer.max_epochs=7", "trainer.max_steps=9", "data.root=elsewhere", "data.num_workers=3",
        "data.memory_limit=1.5", "data.loader=workers", "trainer.profiler=simple",
        "callback.progress.every_n_steps=5", "callback.last.every_n_steps=7",
    ],
)  # fmt: skip
def test_what_may_change(word, unfinished, resume, capsys):
    cfg, words = resume(f"resume={unfinished}", word)
    key, value = word.split("=")
    assert words == [word]
    assert str(overrides._select(cfg, key)).lower() == value
    assert capsys.readouterr().out == "", "it is the same to the last bit"


def test_another_device_is_said(unfinished, resume, capsys):
    cfg, words = resume(f"resume={unfinished}", "device=ddp_cpu", "trainer.devices=1", "threads=2")
    assert words == ["device=ddp_cpu", "threads=2"]
    assert (cfg.trainer.strategy._target_, cfg.trainer.devices, cfg.threads) == ("blitz.device.ddp.DDP", 1, 2)
    said = "device=ddp_cpu threads=2: from here on equal to a run without a break up to rounding only\n"
    assert capsys.readouterr().out == said


NOT_CHANGED = {
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


@pytest.mark.parametrize("word", NOT_CHANGED)
def test_what_may_not_change(word, unfinished, command, capsys):
    before = contents(unfinished)
    message = refused(command, f"resume={unfinished}", word)
    start = f"blitz-train: {word}: {unfinished} has {NOT_CHANGED[word]}, and keeps it; to start a new run"
    assert message.startswith(start), message
    assert f"blitz-train init_from={unfinished} " in message
    assert word.strip("~") in message.partition("init_from=")[2]
    assert contents(unfinished) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["trainer.max_epochs=2", "trainer.max_steps=50"])
def test_a_schedule_that_was_laid_out_is_not_made_longer(word, train, command):
    run = train(*QUICK, "schedule=onecycle")
    before = contents(run)
    message = refused(command, f"resume={run}", word)
    assert f"{word}: its schedule, OneCycleLR, was laid out for {word.partition('=')[0]}=" in message
    assert f"blitz-train init_from={run} {word} " in message
    assert contents(run) == before


def test_a_new_run_as_it_is_advised(unfinished, command, tmp_path):
    words = refused(command, f"resume={unfinished}", "data.batch_size=64").partition("blitz-train init_from=")[2]
    command("blitz-train", *f"init_from={words}".split(), f"hydra.run.dir={tmp_path / 'new'}")
    assert Run(tmp_path / "new").config["data"]["batch_size"] == 64


def test_a_finished_run_stays_as_it_is(finished, command, capsys):
    before = contents(finished)
    accuracy = json.loads((finished / "metrics.json").read_text())["test/acc"] * 100
    for words in ([], ["trainer.max_epochs=1"], ["threads=2"]):
        command("blitz-train", f"resume={finished}", *words)
        assert capsys.readouterr().out == (
            f"{finished} is finished, with a test accuracy of {accuracy:.2f} %; "
            f"to train longer: blitz-train resume={finished} trainer.max_epochs=2\n"
        )
    assert contents(finished) == before


def test_longer(finished, tmp_path, command):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "config.4711.tmp").touch()
    command("blitz-train", f"resume={run}", "trainer.max_epochs=2", "callback.progress.every_n_steps=5")
    again = Run(run)
    assert again.config["trainer"]["max_epochs"] == 2
    assert (again.config["resume"], again.config["run_dir"]) == (None, str(run))
    assert again.overrides == [*WORDS, "trainer.max_epochs=2", "callback.progress.every_n_steps=5"]
    assert again.metrics
    (resumed,) = again.environment["resumed"]
    assert resumed.keys() == {"time", "host", "pid", "command", "git_commit", "differs"}
    assert (resumed["pid"], resumed["differs"]) == (os.getpid(), [])
    assert not list(run.glob("*.tmp"))
    config = (run / "config.yaml").read_bytes()
    (run / "metrics.json").unlink()
    command("blitz-train", f"resume={run}")
    assert (run / "config.yaml").read_bytes() == config
    assert len(again.environment["resumed"]) == 2
    for file in run.glob("checkpoints/*"):
        assert torch.load(file, weights_only=True)["config"]["resume"] is None


def test_a_failure_is_recorded_once_the_run_goes_on(unfinished, command, monkeypatch):
    def broken(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("blitz.terminal.show_start", broken)
    assert "oops" in refused(command, f"resume={unfinished}")
    assert "KeyError: 'oops'" in (unfinished / "error.txt").read_text()


def test_in_use(unfinished, command, tmp_path):
    before = contents(unfinished)
    with lock.hold(unfinished):
        message = refused(command, f"resume={unfinished}")
    assert f"{unfinished} is in use by process {os.getpid()} on host " in message
    assert contents(unfinished) == before


def test_a_fresh_run_holds_its_folder_and_leaves_no_lock(command, tmp_path, monkeypatch):
    run, seen = tmp_path / "run", []

    def create(*_, **__):
        seen.append((run / lock.NAME).read_text())
        raise ValueError("enough")

    monkeypatch.setattr(folder_module, "create_run", create)
    refused(command, *WORDS, f"hydra.run.dir={run}")
    assert seen[0].split()[0] == str(os.getpid())
    assert not run.exists()


@pytest.mark.parametrize("where", ["nowhere", "empty", "eval", "damaged"])
def test_no_run(where, finished, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / where
    answer = {
        "nowhere": "resume=nowhere: no such folder",
        "empty": "resume=empty: no config.yaml in it; is it a run's folder?",
        "eval": "resume=eval: the folder of an evaluation, not of a training run",
        "damaged": "config.yaml: not a run's config, or a damaged one",
    }[where]
    if where == "eval":
        command("blitz-eval", f"run={finished}", f"hydra.run.dir={folder}")
    elif where != "nowhere":
        folder.mkdir()
    if where == "damaged":
        (folder / "config.yaml").touch()
    before = contents(tmp_path)
    assert answer in refused(command, f"resume={where}")
    assert contents(tmp_path) == before
    assert folder.exists() == (where != "nowhere")


def test_in_another_folder_or_in_a_sweep_none_goes_on(unfinished, command, tmp_path):
    before = contents(tmp_path)
    words = {
        "a run goes on in its own folder": [f"hydra.run.dir={tmp_path / 'other'}"],
        "one run goes on, with one command; leave -m out": ["-m"],
        "reproduce=b: one of them, please": ["reproduce=b"],
        "init_from=": ["init_from=b"],
    }
    for answer, more in words.items():
        assert answer in refused(command, *more, f"resume={unfinished}")
    assert "leave -m out" in refused(command, "-m", f"resume={unfinished},x")
    assert contents(tmp_path) == before
    assert not (tmp_path / "other").exists()


def test_auto_starts_a_run_and_goes_on_with_it(command, resume, tmp_path, unfinished):
    assert "add hydra.run.dir=DIR" in refused(command, "resume=auto")
    run = tmp_path / "run"
    words = (*WORDS, f"init_from={unfinished}", "resume=auto", f"hydra.run.dir={run}")
    with pytest.MonkeyPatch.context() as patch:
        call(patch, blitz.train.main, "blitz-train", *words)
    assert Run(run).config["resume"] is None
    assert "resume=auto" not in Run(run).overrides
    (run / "metrics.json").unlink()
    cfg, new = resume(*words)
    assert (cfg.resume, new) == (str(run), [])


def test_a_refusal_does_not_wait_for_torch(finished):
    probe = "import sys; from blitz.train import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for words, status in ((["seed=2"], 1), ([], 0)):
        done = subprocess.run(
            [sys.executable, "-c", probe, f"resume={finished}", *words], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (status, "False")


# -- init_from -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["", "checkpoints/last.ckpt"])
def test_init_from(file, finished, train, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    run = train(*QUICK, f"init_from={Path('run') / file}", "optimizer.lr=0")
    start, now = (runs.load(path).state_dict() for path in (finished / file, run))
    assert all(torch.equal(start[key], now[key]) for key in start), "nothing was learned since"
    assert Run(run).config["init_from"] == str(finished / file).rstrip("/")
    assert "init from      " in capsys.readouterr().out


def test_killed_before_its_first_checkpoint_it_begins_with_those_weights_again(finished, train, command):
    run = train(*QUICK, "schedule=constant", f"init_from={finished}", "optimizer.lr=0")
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.json").unlink()
    command("blitz-train", f"resume={run}")
    start, now = (runs.load(path).state_dict() for path in (finished, run))
    assert all(torch.equal(start[key], now[key]) for key in start)


def test_init_from_nothing_and_from_what_does_not_fit(finished, train, tmp_path):
    (tmp_path / "file.ckpt").write_text("no checkpoint")
    assert "no such run or checkpoint" in fails(train, f"init_from={tmp_path / 'none'}")
    assert "not a checkpoint, or a damaged one" in fails(train, f"init_from={tmp_path / 'file.ckpt'}")
    message = fails(train, f"init_from={finished}", "data.image_size=64")
    assert "its weights do not fit Net (" in message
    assert not (tmp_path / "run").exists()


# -- reproduce -----------------------------------------------------------------------------------------------------


def test_reproduce(finished, train, capsys):
    before = contents(finished)
    run = train(f"reproduce={finished}", "callback.progress.every_n_steps=2")
    out = capsys.readouterr().out
    count = len(json.loads((finished / "metrics.json").read_text()))
    assert out.splitlines()[-1] == f"metrics        are identical: all {count} figures"
    assert "differs" not in out
    assert (run / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    again, was = Run(run), Run(finished)
    assert again.environment["reproduces"] == again.config["reproduce"] == str(finished)
    assert again.environment["data"] == was.environment["data"]
    assert again.overrides == [*WORDS, f"reproduce={finished}", "callback.progress.every_n_steps=2"]
    assert again.config["seed"] == was.config["seed"]
    assert contents(finished) == before


def test_reproduce_says_what_differs(finished, train, tmp_path, capsys):
    was = shutil.copytree(finished, tmp_path / "was")
    environment = json.loads((was / "environment.json").read_text())
    environment["packages"]["torch"] = "2.0"
    environment["data"]["val"] = "pixels:" + "0" * 64
    environment["data"]["test"] = "files:" + "0" * 64
    del environment["platform"]
    (was / "environment.json").write_text(json.dumps(environment))
    metrics = json.loads((was / "metrics.json").read_text())
    for name in list(metrics)[:11]:
        metrics[name] = -1.0
    (was / "metrics.json").write_text(json.dumps(metrics))
    train(f"reproduce={was}")
    out = capsys.readouterr().out
    head, _, tail = out.partition("epoch")
    assert head.count("differs        ") == 2
    assert f"differs        torch is {torch.__version__.split('+')[0]}" in head
    assert ", was 2.0\n" in head
    assert "differs        data checksum (val, pixels) is " in head
    assert f"metrics        differ in 11 of {len(metrics)} figures; see what differs, above" in tail
    assert tail.count("differs        ") == 11
    assert tail.rstrip().endswith("and 1 more")


def test_what_cannot_be_reproduced(finished, unfinished, train, tmp_path):
    before = contents(tmp_path)
    message = fails(train, f"reproduce={unfinished}")
    assert f"not finished; blitz-train resume={unfinished} goes on with it" in message
    assert "trainer.max_epochs=9: " in fails(train, f"reproduce={finished}", "trainer.max_epochs=9")
    assert "seed=1, and keeps it" in fails(train, f"reproduce={finished}", "seed=3")
    assert "no such folder" in fails(train, "reproduce=nowhere")
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_checksums_tell_data_apart(folder, tmp_path):
    def checksums(root, **options):
        classes = ["apple", "blueberry", "grün"]
        common = {"channels": 3, "image_size": 8, "fit": "resize", "mean": [0.5], "std": [0.5], "batch_size": 4}
        data = ImageFolder(root=str(root), classes=classes, num_classes=3, **common, **options)
        for stage in ("fit", "test"):
            data.setup(stage)
        return data.checksums()

    for options, kind in (({}, "pixels:"), ({"loader": "workers"}, "files:")):
        first = checksums(folder, **options)
        assert first.keys() == {"train", "val", "test"}
        assert len(set(first.values())) == 3
        assert all(value.startswith(kind) for value in first.values())
        moved = shutil.copytree(folder, tmp_path / f"moved {kind[:-1]}")
        assert checksums(moved, **options) == first
        image = moved / "test" / "apple" / "0.png"
        shutil.copy(moved / "test" / "grün" / "0.png", image)
        with image.open("ab") as file:
            file.write(b"\0")
        again = checksums(moved, **options)
        assert [name for name in first if again[name] != first[name]] == ["test"]
