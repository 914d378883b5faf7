"""Tiny data of every kind, and the console scripts as functions."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread per process: tests run side by side. Set before torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from PIL import Image

import blitz.cli.app
import blitz.eval
import blitz.export
import blitz.predict
import blitz.train
from blitz.config.paths import PROJECT
from blitz.process.signals import SIGNALS
from tests import compositions

DATA = PROJECT / "data"
QUICK = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.log_every_n_steps=1",
         "callback/dashboard=none")  # fmt: skip
TESTS = Path(__file__).parent
SLOW = (
    "runs/test_resume.py", "device/test_ddp.py", "callback/test_last_checkpoint.py", "scripts/test_fuzz.py",
    "cli/test_errors.py", "runs/test_overrides.py", "test_train.py", "sweep/test_launcher.py", "cli/test_app.py",
    "scripts/test_tour.py", "test_contributing.py", "test_doctor.py", "scripts/test_resume_script.py",
    "sweep/test_cluster.py", "sweep/test_study.py",
)  # fmt: skip
OVERRIDES = ("device=cpu", *QUICK, "seed=1", "schedule=constant", "optimizer=sgd", "optimizer.lr=0.01")

compositions.remember()


def pytest_configure() -> None:
    """Run the tests as one process that reaches its own servers, even in a job of SLURM or behind a proxy."""
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    launchers = [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "LOCAL_RANK", "WORLD_SIZE"]
    for name in launchers:
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest files first: with ``--dist loadfile`` one process would run them alone at the end."""
    assert all((TESTS / name).is_file() for name in SLOW)
    ranks = {name: rank for rank, name in enumerate(SLOW)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(TESTS).as_posix(), len(SLOW)))


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Handle signals as a foreground process does: a shell lets its background jobs ignore Ctrl-C."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _enable_onednn() -> None:
    """Restore torch's default, which a run in an earlier test may have changed for the whole process."""
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


@pytest.fixture
def mnist() -> Path:
    return _real("MNIST/raw/train-images-idx3-ubyte.gz", "blitz-train data=mnist downloads it").parents[2]


@pytest.fixture
def cifar10_folder() -> Path:
    return _real(
        "cifar10-jpeg/train", "write CIFAR-10 there as an image folder: cifar10-jpeg/{train,test}/<class>/*.jpg"
    ).parent


def _real(name: str, how: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: {how}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an image folder: 3 classes with 12 training and 4 test images each, one noisy colour per class."""
    generator = torch.Generator().manual_seed(0)
    for split, n in (("train", 12), ("test", 4)):
        for label, name in enumerate(("apple", "blueberry", "grün")):
            path = tmp_path / "images" / split / name
            path.mkdir(parents=True)
            for i in range(n):
                pixels = torch.randint(0, 60, (20, 20, 3), generator=generator)
                pixels[..., label] += 180
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(path / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``train(*overrides)`` runs blitz-train in this process and returns the run directory, ``tmp_path / into``."""

    def run(*overrides: str, into: str = "run") -> Path:
        path = tmp_path / into
        device = () if any("device=" in override for override in overrides) else ("device=cpu",)
        call(monkeypatch, blitz.train.main, "blitz-train", *device, *overrides, f"hydra.run.dir={path}")
        return path

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``command("blitz-eval", *arguments)`` runs a console script in this process, with exactly these arguments."""
    scripts = {
        "blitz-train": blitz.train.main,
        "blitz-eval": blitz.eval.main,
        "blitz-predict": blitz.predict.main,
        "blitz-export": blitz.export.main,
    }
    return lambda name, *arguments: call(monkeypatch, scripts[name], name, *arguments)


@pytest.fixture
def refused(command: Callable[..., None]) -> Callable[..., str]:
    """``refused(*arguments)`` returns the one line with which blitz-train fails."""
    return lambda *arguments: error_of(command, "blitz-train", *arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run with ``OVERRIDES``. Tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, blitz.train.main, "blitz-train", *OVERRIDES, f"hydra.run.dir={run}")
    return run


@pytest.fixture
def untrained(tmp_path: Path) -> Callable[..., Path]:
    """``untrained(*overrides)`` returns a checkpoint with the random weights of a new task."""

    def save(*overrides: str) -> Path:
        # Here, because Lightning would keep the stderr that it finds while tests are collected.
        from blitz.training import build
        from tests.test_configs import compose

        config = build.resolve(compose("device=cpu", "seed=1", *overrides))
        path = tmp_path / "untrained.ckpt"
        torch.save({"state_dict": build.task(config).state_dict(), "config": config}, path)
        return path

    return save


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run in another directory, in the state before it finished."""
    run = shutil.copytree(finished, tmp_path / "moved")
    (run / "metrics.json").unlink()
    (run / "error.txt").write_text("it failed")
    return run


def call(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", list(argv))
    if sys.platform == "linux":
        monkeypatch.setattr("blitz.sweep.processes.START_METHOD", "fork")  # this process has imported torch already
    main()


def error_of(script: Callable[..., object], *arguments: str) -> str:
    """Return the one line with which ``script(*arguments)`` fails."""
    with pytest.raises(SystemExit) as stopped:
        script(*arguments)
    message = str(stopped.value.code)
    assert message.startswith("blitz-")
    assert "\n" not in message
    return message


def contents(directory: Path) -> dict[Path, bytes]:
    """Return every file below a directory, to compare later."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
