"""A run that is killed or stopped again and again equals the uninterrupted run, bit for bit."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from blitz.config.paths import PROJECT
from tests import processes
from tests.conftest import contents
from tests.processes import TRAIN, TRAIN_WITH_FORKED_RANKS

OFTEN = ("callback.last.every_n_steps=3", "callback.last.time_share=null")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that a process could handle")
# A run with dropout, augmentation, a schedule, accumulation, validation within epochs, early stopping that does not
# happen, and both loggers.
FULL = (
    "seed=1", "trainer.max_epochs=3", "trainer.log_every_n_steps=3", "logger=[tensorboard,csv]",
    "callback=early_stopping", "trainer.val_check_interval=0.5", "trainer.accumulate_grad_batches=2",
    "data.batch_size=32", "model._target_=tests.runs.test_resume.dropping", "+model.p=0.2",
    "+data.augment.flip._target_=blitz.data.augment.Flip", "+data.augment.cutout._target_=blitz.data.augment.Cutout",
    "callback/dashboard=none", "+callback.curves._target_=blitz.callback.curves.Curves",
    "+callback.charts._target_=blitz.callback.charts.Charts",
)  # fmt: skip
CONSTANT = ("schedule=constant", "seed=1", "logger=[tensorboard,csv]", "data.batch_size=64", "callback/dashboard=none")
started: list[processes.Process] = []


def dropping(p: float, **arguments: int) -> torch.nn.Module:
    """Return the tutorial's Net behind dropout, which draws from the global random generator at every step."""
    from blitz.model.net import Net

    return torch.nn.Sequential(torch.nn.Dropout2d(p), Net(**arguments))


def slow_in_eval(**arguments: int) -> torch.nn.Module:
    from blitz.model.net import Net

    net = Net(**arguments)
    net.register_forward_pre_hook(lambda module, _: time.sleep(0 if module.training else 3))
    return net


def start(*overrides: object, out: Path, program: str = TRAIN, **options: bool) -> processes.Process:
    with out.open("wb") as file:
        process = processes.start(
            program, *overrides, cwd=out.parent, env={"PYTHONUNBUFFERED": "1"}, stdout=file.fileno(),
            stderr=subprocess.STDOUT, **options,
        )  # fmt: skip
    started.append(process)
    return process


@pytest.fixture(autouse=True)
def _end_processes():
    """End the processes that a failed test has left."""
    yield
    while started:
        process = started.pop()
        if process.poll() is None:
            process.kill()


def complete(*overrides: object, out: Path, program: str = TRAIN) -> str:
    process = start(*overrides, out=out, program=program)
    assert process.wait(300) == 0, out.read_text()
    return out.read_text()


def interrupted(run: Path, *overrides: object, by: str, saves: int, **how: Any) -> list[int]:
    """End the run at a random moment after a few saves, resume it, and so on. Return the exit statuses."""
    statuses: list[int] = []
    number = signal.Signals[by]
    rng = random.Random(number)
    last = run / "checkpoints" / "resume.ckpt"
    while not statuses or statuses[-1] != 0:
        out = run.parent / f"{run.name}-{len(statuses)}.txt"
        seen, left, delay = _stamp(last), rng.randint(1, saves), rng.uniform(0, 0.01)
        process = start(*(overrides if not statuses else ("resume=" + str(run),)), out=out, **how)
        while process.poll() is None and left:
            time.sleep(0.002)
            if (stamp := _stamp(last)) != seen:
                seen, left = stamp, left - 1
        time.sleep(delay)
        process.send_signal(number)
        statuses.append(process.wait(120))
        assert statuses[-1] in (0, 128 + number, -number), out.read_text()
        assert len(statuses) < 60
    return statuses


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino, path.stat().st_mtime_ns
    return None


def same(run: Path, other: Path) -> None:
    """Compare weights, optimizer, schedule, random states, metrics, and every point of the curves, in order."""
    for name in ("resume.ckpt", "best.ckpt"):
        mine, its = (torch.load(path / "checkpoints" / name, weights_only=True) for path in (run, other))
        for checkpoint, path in ((mine, run), (its, other)):
            del checkpoint["config"]  # it holds the run directory, and the keys that made the run longer
            checkpoint.get("resume", {}).pop("loggers", None)  # it holds the names of their files
            checkpoint.update(_renamed(checkpoint, str(path)))
        assert _differing(mine, its) == [], name
    assert _points(run) == _points(other)
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "metrics.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def _renamed(node: object, run_dir: str) -> object:
    if isinstance(node, dict):
        return {_renamed(key, run_dir): _renamed(value, run_dir) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value, run_dir) for value in node]
    return node.replace(run_dir, "RUN") if isinstance(node, str) else node


def _differing(a: object, b: object, name: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{name}: only one has {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in _differing(a[key], b[key], f"{name}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in _differing(x, y, f"{name}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    return [] if a == b else [f"{name}: {a} {b}"]


MEASURED = ("train/memory_mib", "train/seconds_per_step", "train/samples_per_second")  # differ when a step is repeated


def _points(run: Path) -> list[tuple[str, int, float]]:
    """Return the points as they are in the files; TensorBoard's reader would leave some out."""
    events = (event for path in sorted(run.glob("events.*")) for event in EventFileLoader(str(path)).Load())
    return [
        (value.tag, event.step, value.tensor.float_val[0])
        for event in events
        for value in event.summary.value
        if value.tensor.float_val and not value.tag.startswith(MEASURED)
    ]


def run_uninterrupted(directory: Path, device: str) -> Path:
    overrides = (*FULL, *OFTEN, f"device={device}", f"hydra.run.dir={directory / 'run'}")
    complete(*overrides, out=directory / "out.txt", program=TRAIN_WITH_FORKED_RANKS)
    return directory / "run"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_uninterrupted(tmp_path_factory.mktemp("whole"), "cpu")


@pytest.fixture(scope="module")
def uninterrupted_ddp(tmp_path_factory):
    """Return the uninterrupted run of two processes."""
    return run_uninterrupted(tmp_path_factory.mktemp("ddp"), "ddp_cpu")


@POSIX
@pytest.mark.parametrize("by", ["SIGKILL", "SIGTERM"])
def test_a_chain_of_kills(by, uninterrupted, tmp_path):
    run = tmp_path / "run"
    statuses = interrupted(run, *FULL, *OFTEN, "device=cpu", f"hydra.run.dir={run}", by=by, saves=5)
    assert len(statuses) > 3
    same(run, uninterrupted)
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {"train/loss_step", "loss/train", "acc/val", "train/lr", "test/acc"} <= set(tags)


@POSIX
@pytest.mark.parametrize("by", ["SIGKILL", "SIGTERM"])
def test_a_chain_of_kills_of_two_processes(by, uninterrupted_ddp, tmp_path):
    run, often = tmp_path / "run", ("callback.last.every_n_steps=8", "callback.last.time_share=null")
    overrides = (*FULL, *often, "device=ddp_cpu", f"hydra.run.dir={run}")
    assert len(interrupted(run, *overrides, by=by, saves=2, program=TRAIN_WITH_FORKED_RANKS)) > 2
    same(run, uninterrupted_ddp)


@POSIX
@pytest.mark.parametrize(("device", "by"), [("cpu", "SIGTERM"), ("ddp_cpu", "SIGKILL")])
def test_resumed_in_new_processes(device, by, request, tmp_path):
    """The other tests resume in forks of a process that has imported everything."""
    run, out = tmp_path / "run", tmp_path / "out.txt"
    process = start(*FULL, *OFTEN, f"device={device}", f"hydra.run.dir={run}", out=out, program=TRAIN_WITH_FORKED_RANKS)
    while not (run / "checkpoints" / "resume-previous.ckpt").exists():
        time.sleep(0.005)
    process.send_signal(signal.Signals[by])
    assert process.wait(60) == {"SIGTERM": 143, "SIGKILL": -signal.SIGKILL}[by]
    resumed = start(f"resume={run}", out=out, fork=False)
    assert resumed.wait(300) == 0, out.read_text()
    assert re.search(r"^resumed +after step (?!0)", out.read_text(), re.MULTILINE)
    same(run, request.getfixturevalue("uninterrupted" if device == "cpu" else "uninterrupted_ddp"))


MODEL_CHECKPOINT = "._target_=lightning.pytorch.callbacks.ModelCheckpoint"
USERS = (
    *(
        "+callback.kept" + MODEL_CHECKPOINT,
        "+callback.kept.dirpath=${run_dir}/checkpoints",
        "+callback.kept.save_last=true",
    ),
    *("+callback.kept.monitor=val/loss", "+callback.kept.save_top_k=2"),
    *("+callback.steps" + MODEL_CHECKPOINT, "+callback.steps.dirpath=${run_dir}/checkpoints/steps"),
    *("+callback.steps.every_n_train_steps=7", "+callback.steps.save_top_k=-1"),
)


def saved_by_callbacks(run: Path) -> dict[str, object]:
    """Return what each file of a ModelCheckpoint holds, without what no checkpoint of Lightning restores."""
    found: dict[str, object] = {}
    for path in (run / "checkpoints").rglob("*.ckpt"):
        if not path.name.startswith("resume"):
            checkpoint = torch.load(path, weights_only=True)
            del checkpoint["config"]
            found[str(path.relative_to(run))] = _renamed(checkpoint, str(run))
    return found


WITH_USERS = (*FULL, *USERS, *OFTEN, "trainer.max_epochs=2", "device=cpu")


@pytest.fixture(scope="module")
def uninterrupted_with_users(tmp_path_factory):
    run = tmp_path_factory.mktemp("users") / "run"
    complete(*WITH_USERS, f"hydra.run.dir={run}", out=run.parent / "out.txt")
    return run


@POSIX
@pytest.mark.parametrize("by", ["SIGKILL", "SIGTERM"])
def test_checkpoints_of_the_users_own_callbacks(by, uninterrupted_with_users, tmp_path):
    """One writes last.ckpt, and one a file for some steps, which exists already when the steps are repeated."""
    run = tmp_path / "run"
    statuses = interrupted(run, *WITH_USERS, f"hydra.run.dir={run}", by=by, saves=4)
    assert len(statuses) > 2
    same(run, uninterrupted_with_users)
    mine, its = saved_by_callbacks(run), saved_by_callbacks(uninterrupted_with_users)
    assert {"checkpoints/last.ckpt", "checkpoints/steps/epoch=0-step=7.ckpt"} <= mine.keys()
    assert _differing(mine, its) == []


@POSIX
def test_checkpoints_of_callbacks_are_written_again_if_the_run_starts_again(copy, uninterrupted, command):
    (copy / "checkpoints" / "steps").mkdir()
    for file in copy.glob("checkpoints/resume*.ckpt"):
        file.rename(copy / "checkpoints" / "steps" / file.name)
    command("blitz-train", f"resume={copy}")
    same(copy, uninterrupted)
    assert not list(copy.glob("checkpoints/steps/*"))


def test_a_callback_may_not_overwrite_the_state_to_resume_from(refused, tmp_path):
    assert refused("callback.checkpoint.filename=resume", f"hydra.run.dir={tmp_path / 'run'}").endswith(
        "callback.checkpoint.filename=resume: reserved for the run's own state; expected another name"
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Return a run that SIGTERM stopped, and its output."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    out = run.parent / "out.txt"
    process = start(*FULL, *OFTEN, "device=cpu", f"hydra.run.dir={run}", out=out)
    while not (run / "checkpoints" / "resume-previous.ckpt").exists():
        time.sleep(0.005)
    process.terminate()
    assert process.wait(60) == 143
    return run, out.read_text()


@pytest.fixture
def copy(stopped, tmp_path):
    """Return a copy of the stopped run for a single test."""
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


@POSIX
def test_the_output_of_a_stopped_run(stopped):
    run, out = stopped
    step = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)["global_step"]
    assert out.splitlines()[-2:] == [f"stopped by SIGTERM after step {step}", "to resume: blitz-train resume=run"]
    assert "Traceback" not in out
    assert not (run / "error.txt").exists()
    assert not (run / "metrics.json").exists()


@POSIX
def test_a_moved_run(copy, uninterrupted, command, capsys):
    command("blitz-train", f"resume={copy}")
    same(copy, uninterrupted)
    step = json.loads((copy / "environment.json").read_text())
    assert [entry["pid"] for entry in step["resumed"]] == [os.getpid()]
    assert "resumed        after step" in capsys.readouterr().out


@POSIX
@pytest.mark.parametrize("part", [0, 0.5, 0.999])
def test_a_truncated_checkpoint(part, copy, uninterrupted, command, capsys):
    last = copy / "checkpoints" / "resume.ckpt"
    os.truncate(last, int(part * last.stat().st_size))
    (copy / "checkpoints" / "resume.ckpt.tmp").write_text("half a checkpoint")
    (copy / "checkpoints" / "resume-next.ckpt").write_text("half a checkpoint")
    watching = EventAccumulator(str(copy)).Reload()  # like a dashboard that has read the points that are now cut off
    command("blitz-train", f"resume={copy}")
    out = capsys.readouterr().out.splitlines()
    assert sum("resume.ckpt: not a checkpoint, or a damaged one" in line for line in out) == 1
    assert any(line.startswith("resumed") and line.endswith("resume-previous.ckpt") for line in out)
    same(copy, uninterrupted)
    assert {path.name for path in last.parent.iterdir()} == {"resume.ckpt", "resume-previous.ckpt", "best.ckpt"}
    for tag, points in Counter(tag for tag, _, _ in _points(uninterrupted)).items():
        assert len(watching.Reload().Scalars(tag)) == points, tag


@POSIX
def test_a_checkpoint_with_a_wrong_bit(copy, uninterrupted, command, capsys):
    last = copy / "checkpoints" / "resume.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    command("blitz-train", f"resume={copy}")
    assert "damaged" in capsys.readouterr().out
    same(copy, uninterrupted)


@POSIX
def test_no_intact_checkpoint(copy, command):
    for name in ("resume.ckpt", "resume-previous.ckpt"):
        os.truncate(copy / "checkpoints" / name, 100)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=r"resume\.ckpt: not a checkpoint.*resume-previous\.ckpt: not a checkpoint"):
        command("blitz-train", f"resume={copy}")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@POSIX
def test_killed_before_anything_was_saved(copy, uninterrupted, command, capsys):
    shutil.rmtree(copy / "checkpoints")
    command("blitz-train", f"resume={copy}")
    assert "from the start; nothing was saved yet" in capsys.readouterr().out
    same(copy, uninterrupted)


@POSIX
def test_a_full_disk_leaves_the_previous_checkpoint(copy, uninterrupted, command):
    """The limit on the size of a file, which is smaller than a checkpoint, stands for the full disk."""
    last = copy / "checkpoints" / "resume.ckpt"
    before = last.read_bytes()
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)"
    done = processes.run(f"{limit}; {TRAIN}", f"resume={copy}")
    assert done.returncode == 1
    assert done.stderr == f"blitz-train: File too large: {copy / 'checkpoints' / 'resume-next.ckpt'}\n"
    assert last.read_bytes() == before
    assert "File too large" in (copy / "error.txt").read_text()
    command("blitz-train", f"resume={copy}")
    assert not (copy / "error.txt").exists()
    same(copy, uninterrupted)


@POSIX
def test_from_two_processes_to_one(uninterrupted_ddp, tmp_path, command, capsys):
    """They are equal up to rounding, without dropout: each process draws numbers for its own part of a batch.

    With a small learning rate. A large one, and Adam, make differences in rounding grow.
    """
    run = tmp_path / "run"
    smooth = ("optimizer=sgd", "optimizer.lr=0.01", "schedule=constant", "trainer.max_epochs=2")
    overrides = [*(override for override in FULL if "model" not in override), *smooth]
    complete(*overrides, "device=cpu", f"hydra.run.dir={tmp_path / 'alone'}", out=tmp_path / "alone.txt")
    out = tmp_path / "run.txt"
    process = start(*overrides, *OFTEN, "device=ddp_cpu", f"hydra.run.dir={run}", out=out)
    while not (run / "checkpoints" / "resume-previous.ckpt").exists():
        time.sleep(0.005)
    process.terminate()
    assert process.wait(60) == 143
    command("blitz-train", f"resume={run}", "device=cpu")
    assert "device=cpu: from here on equal to an uninterrupted run up to rounding only" in capsys.readouterr().out
    mine, its = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "alone"))
    assert mine == pytest.approx(its, abs=1e-5)


@POSIX
def test_one_process_at_a_time(copy, uninterrupted, command):
    process = start(f"resume={copy}", out=copy.parent / "first.txt")
    while not (copy / ".lock").exists() or not (copy / ".lock").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(SystemExit, match=f"in use by process {process.pid} on host {socket.gethostname()}"):
        command("blitz-train", f"resume={copy}")
    assert process.wait(120) == 0
    same(copy, uninterrupted)


@POSIX
@pytest.mark.parametrize("by", ["SIGUSR1", "SIGUSR2"])
def test_the_signals_of_slurm(by, copy, uninterrupted, command):
    last = copy / "checkpoints" / "resume.ckpt"
    seen = _stamp(last)
    out = copy.parent / "out.txt"
    process = start(f"resume={copy}", out=out)
    while _stamp(last) in (seen, None):
        time.sleep(0.002)
    process.send_signal(signal.Signals[by])
    assert process.wait(60) == 143
    assert f"stopped by {by} after step" in out.read_text()
    command("blitz-train", f"hydra.run.dir={copy}", "resume=auto")  # a job script repeats the same command
    same(copy, uninterrupted)


@POSIX
def test_a_signal_to_the_workers_too(tmp_path):
    """SLURM and systemd signal all processes of a job."""
    run, out = tmp_path / "run", tmp_path / "out.txt"
    overrides = ("trainer.max_epochs=1000", "device=cpu", "data.loader=workers", "data.num_workers=2")
    process = start(*overrides, f"hydra.run.dir={run}", out=out, start_new_session=True)
    while not (run / "checkpoints" / "resume.ckpt").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert "stopped by SIGTERM after step" in out.read_text()


@POSIX
def test_other_data_is_refused(folder, train, command):
    overrides = ("data=image_folder", f"data.root={folder}", "data.batch_size=8", *CONSTANT[:2])
    run = train(*overrides, "trainer.max_epochs=1")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (folder / "train" / "apple" / "0.png").rename(folder / "train" / "blueberry" / "zero.png")
    with pytest.raises(SystemExit, match="the train images are not those that the run began with"):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=2")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@POSIX
@pytest.mark.parametrize("loader", ["device", "workers"])
def test_other_contents_are_refused_for_every_loader(folder, train, command, loader):
    """The file has the same name, size and modification time."""
    overrides = ("data=image_folder", f"data.root={folder}", "data.batch_size=8", "data.num_workers=1", *CONSTANT[:2])
    run = train(*overrides, "trainer.max_epochs=1")
    before = contents(run)
    image = folder / "train" / "apple" / "0.png"
    content, stat = image.read_bytes(), image.stat()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(SystemExit, match="the train images are not those that the run began with"):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=2", f"data.loader={loader}")
    assert contents(run) == before


def test_checksums_of_an_earlier_version_are_reported(folder, train, command, capsys):
    """Decoded images were recorded by their pixels, and other files by name and size."""
    overrides = ("data=image_folder", f"data.root={folder}", "data.batch_size=8", *CONSTANT[:2])
    run = train(*overrides, "trainer.max_epochs=1")
    file = run / "environment.json"
    file.write_text(file.read_text().replace('"contents:', '"pixels:'))
    capsys.readouterr()
    command("blitz-train", f"resume={run}", "trainer.max_epochs=2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("differs")]
    assert len(lines) == 1
    assert "kind of data checksums (different kinds cannot be compared) is contents, was pixels" in lines[0]


def test_a_split_that_is_gone_is_refused(folder, train, command):
    shutil.copytree(folder / "test", folder / "val")
    run = train("data=image_folder", f"data.root={folder}", "data.batch_size=8", *CONSTANT[:2], "trainer.max_epochs=1")
    shutil.rmtree(folder / "val")
    with pytest.raises(SystemExit, match="images are not those that the run began with"):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=2")


def test_a_changed_package_is_reported(copy, command, capsys):
    file = copy / "environment.json"
    environment = json.loads(file.read_text())
    environment["packages"]["torch"] = "2.14.0"
    file.write_text(json.dumps(environment))
    command("blitz-train", f"resume={copy}")
    assert re.search(
        r"differs +torch is .*, was 2\.14\.0; results may differ in rounding from here on", capsys.readouterr().out
    )


def test_two_loggers_of_one_kind(train, command, tmp_path):
    overrides = (*CONSTANT, "trainer.max_epochs=2", "+logger.two._target_=blitz.logger.tensorboard.TensorBoardLogger")
    run = train(*overrides, f"+logger.two.save_dir={tmp_path / 'two'}", "+logger.two.name=''", "+logger.two.version=''")
    (run / "metrics.json").unlink()
    points = _points(tmp_path / "two")
    command("blitz-train", f"resume={run}")
    assert _points(tmp_path / "two") == points == _points(run)


def test_a_damaged_checkpoint_is_not_kept_as_the_previous_one(copy, command, uninterrupted):
    """Otherwise a kill between the two renames of the next save would leave no intact checkpoint."""
    os.truncate(copy / "checkpoints" / "resume.ckpt", 100)
    rename = (
        "from pathlib import Path; import os; move = Path.replace\n"
        "def replace(a, b): (b.name == 'resume.ckpt' and os._exit(9)); return move(a, b)\n"
        "Path.replace = replace; from blitz.train import main; main()"
    )
    assert processes.run(rename, f"resume={copy}").returncode == 9
    command("blitz-train", f"resume={copy}")
    same(copy, uninterrupted)


def test_logs_shortened_by_a_power_cut(copy, command):
    events = max(copy.glob("events.*"))
    os.truncate(events, events.stat().st_size // 2)
    (copy / "metrics.csv").unlink()
    command("blitz-train", f"resume={copy}")
    assert (copy / "metrics.json").exists()
    assert b"\0" * 64 not in events.read_bytes()


@POSIX
@pytest.mark.parametrize("device", ["cpu", "ddp_cpu"])
def test_a_signal_in_the_test(device, tmp_path):
    """The training is complete: there is nothing to save, and the resumed run begins with its test."""
    run, out = tmp_path / "it's a run", tmp_path / "out.txt"
    slow = ("model._target_=tests.runs.test_resume.slow_in_eval", "data.val_fraction=0", "callback.checkpoint=null")
    process = start(
        f"device={device}",
        "trainer.max_epochs=1",
        "optimized_metric=train/loss",
        "direction=min",
        *slow,
        f'hydra.run.dir="{run}"',
        out=out,
        program=TRAIN_WITH_FORKED_RANKS,
    )
    while "trained in" not in out.read_text():
        assert process.poll() is None, out.read_text()
        time.sleep(0.01)
    time.sleep(1)
    process.terminate()
    assert process.wait(30) == 143, out.read_text()
    assert out.read_text().splitlines()[-1] == """to resume: blitz-train 'resume='"'"'it\\'"'"'s a run'"'"''"""


# -- Ctrl-C --------------------------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("device", ["cpu", "ddp_cpu"])
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts(times, device, tmp_path):
    """The first saves; the second ends at once. A terminal sends them to all processes of its group."""
    run, out = tmp_path / "run", tmp_path / "out.txt"
    overrides = ("trainer.max_epochs=1000", f"device={device}", f"hydra.run.dir={run}")
    process = start(*overrides, out=out, program=TRAIN_WITH_FORKED_RANKS, start_new_session=True)
    while not (run / "checkpoints" / "resume.ckpt").exists():
        time.sleep(0.01)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    text = out.read_text()
    assert "Traceback" not in text
    if times == 1:
        assert re.search(r"stopped by SIG(INT|TERM) after step \d", text)
        assert "blitz-train resume=" in text
    deadline = time.monotonic() + 10  # no process is left; the last to end belongs to Python's multiprocessing
    with contextlib.suppress(ProcessLookupError):
        while os.killpg(process.pid, 0) is None:
            assert time.monotonic() < deadline


# -- longer runs, and refused ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_longer(limit, train, command):
    """The run equals one that was longer from the start; the results of its first test are gone."""
    first, more = {"max_epochs": (1, 3), "max_steps": (21, 49)}[limit]  # 21 steps an epoch
    base = (*CONSTANT, "trainer.max_epochs=5")
    run = train(*base, f"trainer.{limit}={first}", into="short")
    assert (run / "metrics.json").exists()
    command("blitz-train", f"resume={run}", f"trainer.{limit}={more}")
    long = train(*base, f"trainer.{limit}={more}", into="long")
    same(run, long)


def test_longer_after_an_end_within_an_epoch_is_refused(train, command):
    run = train(*CONSTANT, "trainer.max_steps=30")
    with pytest.raises(SystemExit, match=r"ended after step 30, within an epoch.*init_from="):
        command("blitz-train", f"resume={run}", "trainer.max_steps=70")
    assert (run / "metrics.json").exists(), "nothing was changed"


def test_shorter_than_the_finished_part_is_refused(train, command):
    run = train(*CONSTANT, "trainer.max_epochs=2")
    (run / "metrics.json").unlink()
    with pytest.raises(SystemExit, match=r"trainer\.max_epochs=1: the run has already begun 2; expected at least 2"):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=1")


def test_shorter_than_the_epoch_that_has_begun_is_refused(train, command):
    run = train(*CONSTANT, "trainer.max_steps=30")  # the second epoch ends after 42 steps
    (run / "metrics.json").unlink()
    with pytest.raises(SystemExit, match=r"trainer\.max_epochs=1: the run has already begun 2; expected at least 2"):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=1")


# -- refused resumes change no file ------------------------------------------------------------------------------------


def _edit_config(run: Path) -> str:
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.01", "lr: 0.2"))
    return r"config\.yaml: optimizer\.lr=0\.2, but .* has 0\.01; expected the config as the run wrote it"


def _checkpoint_of_another_run(run: Path) -> str:
    path = run / "checkpoints" / "resume.ckpt"
    content = torch.load(path, weights_only=True)
    content["config"]["seed"] = 7
    torch.save(content, path)
    return r"config\.yaml: seed=1, but .* has 7; expected the config as the run wrote it"


def _damage_best(run: Path) -> str:
    path = run / "checkpoints" / "best.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return r"best\.ckpt: not a checkpoint, or a damaged one"


def _remove_best(run: Path) -> str:
    (run / "checkpoints" / "best.ckpt").unlink()
    return r"best\.ckpt: the best checkpoint is missing; expected it there"


def _unreadable_events(run: Path) -> str:
    events = next(run.glob("events.out.tfevents.*"))
    events.unlink()
    events.mkdir()
    return r"events\.out\.tfevents"


def _shorten_config(run: Path) -> str:
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(config | {"logger": {}}))
    return r"config\.yaml: logger\.tensorboard\.\w+=None, but .* has "


def _pipe(run: Path) -> str:
    (run / "environment.json").unlink()
    os.mkfifo(run / "environment.json")
    return r"environment\.json: cannot be read \(not a regular file\)"


def _damage(name: str, content: str) -> Callable[[Path], str]:
    def damage(run: Path) -> str:
        (run / name).write_text(content)
        return rf"{re.escape(name)}: cannot be read \(.*\); expected the file as the run wrote it"

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _edit_config,
        _checkpoint_of_another_run,
        _damage_best,
        _remove_best,
        _unreadable_events,
        _shorten_config,
        pytest.param(_pipe, marks=POSIX),
        _damage("overrides.yaml", "a: b"),
        _damage("overrides.yaml", "[1, "),
        _damage("environment.json", "{"),
        _damage("metrics.json", "[1]"),
        _damage("config.yaml", "[1, "),
    ],
)
def test_refused(damage, finished, command, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    problem = damage(run)
    before = contents(run)
    with pytest.raises(SystemExit, match=problem):
        command("blitz-train", f"resume={run}", "trainer.max_epochs=2")
    assert contents(run) == before


def test_unfinished_run_whose_best_checkpoint_is_damaged_is_refused(unfinished, command):
    problem = _damage_best(unfinished)
    before = contents(unfinished)
    with pytest.raises(SystemExit, match=problem):
        command("blitz-train", f"resume={unfinished}", "trainer.max_epochs=2")
    assert contents(unfinished) == before


@POSIX
def test_no_space_for_the_new_records(finished, tmp_path):
    """The limit on the size of a file stands for the full disk."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(run)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500,) * 2)"
    done = processes.run(f"{limit}; {TRAIN}", f"resume={run}", "trainer.max_epochs=2")
    assert (done.returncode, done.stderr) == (1, f"blitz-train: File too large: {run / 'environment.json'}\n")
    assert contents(run) == before


def test_missing_environment_is_reported(unfinished, command, capsys):
    (unfinished / "environment.json").unlink()
    command("blitz-train", f"resume={unfinished}")
    assert "differs        environment.json is missing" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["a: [", None])
def test_broken_default_config_does_not_block_a_resume(content, unfinished, command, capsys, monkeypatch, tmp_path):
    configs = Path(shutil.copytree(PROJECT / "configs", tmp_path / "configs"))
    (configs / "train.yaml").unlink()
    if content is not None:
        (configs / "train.yaml").write_text(content)
    monkeypatch.setattr("blitz.cli.app.CONFIGS", configs)
    command("blitz-train", f"resume={unfinished}", "trainer.max_epochs=2")
    assert "resumed with the recorded config only" in capsys.readouterr().out
    assert yaml.safe_load((unfinished / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert (unfinished / "metrics.json").exists()
    with pytest.raises(SystemExit, match=r"blitz-train: "):
        command("blitz-train", f"resume={unfinished}", "optimizr.lr=2")


def test_another_device_is_accepted(unfinished, command):
    command("blitz-train", f"resume={unfinished}", "device=dp_cpu", "trainer.max_epochs=2")
    assert (unfinished / "metrics.json").exists()


def test_uncommitted_changes_are_reported(unfinished, command, capsys):
    (unfinished / "git.diff").write_text("- a\n+ b\n")
    command("blitz-train", f"resume={unfinished}")
    assert re.search(r"differs +git\.diff is \w+, was \w+; results may differ", capsys.readouterr().out)


@POSIX
def test_a_run_without_checkpoints_ends_on_sigterm(tmp_path):
    out = tmp_path / "out.txt"
    process = start(
        "device=cpu", "callback.last=null", "trainer.max_epochs=1000", f"hydra.run.dir={tmp_path / 'run'}", out=out
    )
    while "1/1000" not in out.read_text():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 143


def test_killed_during_the_test(train, command):
    """The training is complete; only the final metrics are missing."""
    run = train(*CONSTANT, "trainer.max_epochs=2", "callback=early_stopping")
    metrics = (run / "metrics.json").read_bytes()
    points = _points(run)
    for name in ("metrics.json", "per_class.csv"):
        (run / name).unlink()
    command("blitz-train", f"resume={run}")
    assert (run / "metrics.json").read_bytes() == metrics
    assert _points(run) == points


def test_an_early_stop_is_restored(train, command):
    overrides = (*CONSTANT, "trainer.max_epochs=30", "callback=early_stopping", "callback.early_stopping.patience=1")
    run = train(*overrides, "+callback.early_stopping.min_delta=0.5")
    metrics = (run / "metrics.json").read_bytes()
    epochs = torch.load(run / "checkpoints" / "resume.ckpt", weights_only=True)["epoch"]
    assert epochs < 29
    (run / "metrics.json").unlink()
    command("blitz-train", f"resume={run}")
    assert (run / "metrics.json").read_bytes() == metrics
