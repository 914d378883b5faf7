"""Tiny data of every kind, and the entry points as functions."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

# One thread a process: tests run side by side. Before torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from PIL import Image

import blitz.cli.app
import blitz.eval
import blitz.train
from blitz.config.paths import PROJECT

DATA = PROJECT / "data"
QUICK = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.log_every_n_steps=1")


def pytest_configure() -> None:
    """The tests are one process and ask servers of their own, whatever the machine they run on says."""
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    launchers = [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "LOCAL_RANK", "WORLD_SIZE"]
    for name in launchers:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _as_torch_has_it() -> None:
    """Not as the run of an earlier test has set it for the whole process."""
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


@pytest.fixture
def mnist() -> Path:
    return _real("MNIST/raw/train-images-idx3-ubyte.gz", "blitz-train data=mnist downloads it").parents[2]


@pytest.fixture
def cifar10_folder() -> Path:
    return _real(
        "cifar10-jpeg/train", "lay CIFAR-10 out there as an image folder: cifar10-jpeg/{train,test}/<class>/*.jpg"
    ).parent


def _real(name: str, how: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: {how}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: 3 classes, 12 training and 4 test images each, of one colour a class with noise."""
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
    """``train(*overrides)``: blitz-train in this process, in a folder of the test's own; gives that folder."""

    def run(*overrides: str, into: str = "run") -> Path:
        path = tmp_path / into
        device = () if any("device=" in word for word in overrides) else ("device=cpu",)
        call(monkeypatch, blitz.train.main, "blitz-train", *device, *overrides, f"hydra.run.dir={path}")
        return path

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``command("blitz-eval", ...)``: an entry point in this process, with just these words on its command line."""
    entry = {"blitz-train": blitz.train.main, "blitz-eval": blitz.eval.main}
    return lambda name, *words: call(monkeypatch, entry[name], name, *words)


def call(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", list(argv))
    main()
