"""Measure the speed of blitz against the tutorial's loop, a straightforward Lightning module, and the bare loop.

Run ``make bench`` or ``python scripts/benchmark.py``. ``--quick`` takes under two minutes on two idle cores, ``--rows``
selects rows by text in their names, ``--markdown`` prints the table for a README. The peers are in ``peers.py``.

Both sides of a row are measured in turn (A B A B ...) in one process, with the same images, batch size, network,
optimizer and number of steps. The table says how many threads each side uses. A cell is the median of the rounds with
their range. A ratio is the median of the ratios of each round: if the machine slows down for a while, it slows both
sides. Above 1, blitz is faster.

Timed are:

- training: from the end of the tenth step to the end of the last. Imports, reading data, starting workers and
  validation do not count.
- flip and translate: ten batches, after a warm-up batch.
- evaluation: the second of two passes.
- MNIST: the whole second epoch, with training, validation and checkpoint.
- a folder of images: until its images are in memory.
- start-up: a command from its launch to its end, or to the end of its first training step.
- sweep: the whole command; a single job also saves, tests and writes its results.
- memory: the peak of a run of one short epoch, with its data.

blitz is built from its config, as ``blitz-train`` builds it, and keeps its metrics, TensorBoard, checkpoints and
progress bar. All progress bars draw on a terminal in memory. If blitz makes glibc keep freed memory, this also holds
for the peers in later rounds.
"""

import argparse
import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

import hydra
import peers
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from rich import box
from rich.table import Column, Table
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from blitz.config.paths import CONFIGS, PROJECT
from blitz.config.schema import register
from blitz.data.augment import Augmentation, Flip, Translate
from blitz.data.datamodule import ImageDataModule
from blitz.data.loader import Split
from blitz.data.per_image import PerImage
from blitz.model.net import Net
from blitz.terminal import console, silence_lightning
from blitz.training import build
from blitz.training.tune import tune

WARM_UP_STEPS = 10
TUTORIAL = ("optimizer=sgd", "optimizer.lr=0.001", "optimizer.momentum=0.9", "schedule=constant")
DENSE_NET = ("model._target_=peers.DenseNet", "~model.in_channels", "~model.num_classes", "~model.image_size")
AUGMENT = tuple(f"+data.augment.{name}._target_=blitz.data.augment.{name}" for name in ("Flip", "Translate", "Cutout"))
TORCHVISION = (v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=2, padding_mode="reflect"))  # Flip and Translate
SHORT = ("device=cpu", "threads=1", "trainer.max_epochs=2")  # runs that a sweep is measured on
BLITZ = (sys.executable, "-m", "blitz.train")
STRAIGHTFORWARD = (sys.executable, str(Path(peers.__file__)))
HYDRA_PEER = (sys.executable, str(Path(peers.__file__).with_name("hydra_peer.py")))
# A separate module, because importing this file in a run would import too much.
FIRST_STEP = """
import os
from lightning import Callback

class FirstStep(Callback):
    def on_train_batch_end(self, *_):
        os._exit(0)
"""


# Print the peak of a command's resident memory, in MiB. Linux starts from the memory of the parent process, so this
# small process is the parent.
PEAK = """
import os, subprocess, sys
started = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(started.pid, 0)
print(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Row:
    """Two ways to do the same: each function does it once and returns the seconds, or the memory in MiB.

    Args:
        work: number of ``unit`` that a call does; the table shows ``unit`` per second. 0: show the returned values.
        at_least: the goal for the ratio.
        at_most: the goal for the seconds of ``ours``.
        threads: of ours and of the peer; None if the commands decide.
    """

    name: str
    ours: Callable[[], float]
    peer: Callable[[], float]
    work: int = 0
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    threads: tuple[int, int] | None = None


@dataclass(frozen=True)
class Measured:
    """The seconds of each round of a row."""

    row: Row
    ours: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    def cells(self) -> list[str]:
        row = self.row
        goal = f"≥ {row.at_least:g}" if row.at_least else f"ours ≤ {row.at_most:g} s" if row.at_most else ""
        reached = (row.at_least is None or statistics.median(self.ratios) >= row.at_least) and (
            row.at_most is None or statistics.median(self.ours) <= row.at_most
        )
        sides = (self._speed(seconds) for seconds in (self.ours, self.peer))
        threads = "–" if row.threads is None else " / ".join(map(str, row.threads))
        return [row.name, threads, *sides, spread(self.ratios), f"{goal} {'✓' if reached else '✗'}" if goal else "–"]

    def _speed(self, seconds: list[float]) -> str:
        if not self.row.work:
            return f"{spread(seconds)} {self.row.unit or 's'}"
        return f"{spread([self.row.work / value for value in seconds])} {self.row.unit}/s"


class Clock:
    """Record times. The work on the device is finished first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def record(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Seconds between the last two recorded times."""
        return self.times[-1] - self.times[-2]


class StepClock(Clock):
    """Record the end of the warm-up and the end of the last step. Call it at the end of each step."""

    def __init__(self, device: torch.device, steps: int) -> None:
        super().__init__(device)
        self.ends = (WARM_UP_STEPS, WARM_UP_STEPS + steps)
        self.step = 0

    @property
    def limits(self) -> dict[str, int]:
        """Arguments of a trainer that takes these steps and then, untimed, validates on one batch."""
        return {"max_epochs": 1, "limit_train_batches": self.ends[1], "limit_val_batches": 1}

    def __call__(self) -> None:
        self.step += 1
        if self.step in self.ends:
            self.record()


class EpochClock(Callback):
    """Record the start of the second epoch and the end of the training, or the start and the end of a test."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.clock.record()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.record()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.record()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.record()


@dataclass
class Benchmark:
    """The images, and the two sides of each row.

    Args:
        pictures: overrides that choose CIFAR-10, or images like it.
        digits: overrides that choose MNIST, 28x28.
        steps: number of timed steps, by batch size.
        threads: torch's default, one per core. The tutorial's loop and the straightforward module run with it, as they
            do for their users. The bare loop has as many threads as blitz: one for batches of 4.
        few: train on the test images. Decoding 50,000 files would take longer than the quick rounds.
        compiled: also measure ``compile=true``, which takes half a minute before its first round.
        template: a clone of lightning-hydra-template; its start-up is measured too.
    """

    pictures: Sequence[str]
    digits: Sequence[str]
    steps: dict[int, int]
    threads: int
    few: bool = False
    compiled: bool = False
    template: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    _splits: dict[Sequence[str], dict[str, Split]] = field(default_factory=dict)
    _files: tempfile.TemporaryDirectory[str] | None = None
    _finished: tempfile.TemporaryDirectory[str] | None = None

    def rows(self) -> list[Row]:
        """Return the rows of the table. Add a row here."""
        rows = []
        for peer, side, goals in (
            ("tutorial loop", self.tutorial, {4: 2, 128: 3.2, 512: 3.2}),
            ("straightforward Lightning", self.straightforward, {4: 3, 128: 3}),
            ("bare loop", self.floor, {4: 0.8, 128: 0.95, 512: 0.95}),
        ):
            rows += [
                self._training(batch, f": ours / {peer}", peer=partial(side, batch), at_least=goal)
                for batch, goal in goals.items()
            ]
        if self.compiled:
            rows += [
                self._training(batch, f", compiled: ours / {peer}", "compile=true", peer=partial(side, batch))
                for peer, side in (("tutorial loop", self.tutorial), ("bare loop", self.floor))
                for batch in (4, 128)
            ]
        if hasattr(os, "wait4"):
            rows.append(
                Row(
                    "peak memory, CIFAR-10: ours / import of torch and lightning, and 1.3 x the images",
                    self.memory,
                    self.memory_floor,
                    unit="MiB",
                    at_least=1,
                )
            )
        rows += [
            self._training(
                batch,
                ": saving as by default / not at all",
                peer=partial(self.train, batch, "callback.last=null"),
                at_least=0.98,
            )
            for batch in (4, 128)
        ]
        return [
            *rows,
            self._training(128, ": ours augmented / ours", *AUGMENT, peer=partial(self.train, 128), at_least=0.9),
            Row(
                "flip and translate, batch 128: ours / torchvision's transforms, image by image",
                partial(self.augment, Flip(), Translate(2)),
                partial(self.augment, *map(PerImage, TORCHVISION)),
                work=10 * 128,
                unit="images",
                threads=(self.threads, self.threads),
            ),
            Row(
                "evaluation: ours / bare loop",
                self.evaluate,
                self.evaluate_floor,
                work=10_000,
                unit="images",
                at_least=0.95,
                threads=(self.threads, self.threads),
            ),
            Row(
                "MNIST epoch, batch 128: ours / straightforward Lightning",
                self.epoch,
                self.epoch_straightforward,
                at_least=10,
                threads=(1, self.threads),
            ),
            Row(
                "MNIST epoch, batch 128: ours / bare loop, which does not validate",
                self.epoch,
                self.epoch_floor,
                at_least=0.7,
                threads=(1, 1),
            ),
            Row(
                "start on a folder of 10,000 images: second / first",
                partial(self.read_folder, cached=True),
                partial(self.read_folder, cached=False),
                at_least=5,
                threads=(self.threads, self.threads),
            ),
            Row(
                "start-up, --help: ours / straightforward script",
                partial(self.command, *BLITZ, "--help"),
                partial(self.command, *STRAIGHTFORWARD, "--help"),
                at_most=1,
            ),
            Row(
                "start-up, misspelled override: ours / straightforward script",
                partial(self.command, *BLITZ, "optimizer=sdg", status=1),
                partial(self.command, *STRAIGHTFORWARD, "--optimizer=sdg", status=2),
                at_most=1,
            ),
            *(
                Row(
                    f"start-up, first MNIST step: ours / {name}",
                    partial(self.command, *BLITZ, *self.digits, "+callback.first._target_=first_step.FirstStep"),
                    partial(self.command, *command),
                    at_least=goal,
                )
                for name, command, goal in self.starts()
            ),
            Row(
                "sweep, eight short digits jobs: two at a time / eight commands one after another",
                partial(self.sweep, "seed=range(8)", "hydra.launcher.n_jobs=2"),
                partial(self.one_by_one, 8),
                at_least=3,
            ),
            Row(
                "sweep, 100 finished jobs again: ours / straightforward script, --help",
                self.finished_sweep,
                partial(self.command, *STRAIGHTFORWARD, "--help"),
                at_most=2,
            ),
        ]

    def _training(
        self, batch: int, name: str, *overrides: str, peer: partial[float], at_least: float | None = None
    ) -> Row:
        """Return a row of training steps, ours with ``overrides``. The bare loop has as many threads as blitz."""
        ours = 1 if batch == 4 else self.threads
        return Row(
            f"training, batch {batch}{name}",
            partial(self.train, batch, *overrides),
            peer,
            work=self.steps[batch] * (1 if batch == 4 else batch),
            unit="steps" if batch == 4 else "images",
            at_least=at_least,
            threads=(ours, ours if peer.func in (self.floor, self.train) else self.threads),
        )

    def starts(self) -> list[tuple[str, Sequence[str], float | None]]:
        """Return other ways from a command to the first step on MNIST: name, command, and the goal for the ratio."""
        data = PROJECT / "data"
        starts: list[tuple[str, Sequence[str], float | None]] = [
            ("straightforward script", (*STRAIGHTFORWARD, "--data", str(data)), None),
            ("Lightning with Hydra, rich and TensorBoard", (*HYDRA_PEER, f"data.folder={data}"), None),
        ]
        if self.template:
            python = self.template / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
            command = (str(python), str(self.template / "src" / "train.py"), f"data.data_dir={data}")
            first_step = "+callbacks.first._target_=first_step.FirstStep"
            starts.append(("lightning-hydra-template", (*command, first_step), 1.25))
        return starts

    def splits(self, overrides: Sequence[str]) -> dict[str, Split]:
        """Return the data of ``overrides``, read once for all sides and rounds."""
        if overrides not in self._splits:
            data = build.data(build.resolve(compose(*overrides)))
            data.prepare_data()
            data.setup("test")
            if self.few:
                test = data.splits["test"]
                data.splits |= {"train": test, "val": Split(test.images, test.labels[:1000], torch.arange(1000))}
            data.setup("fit")
            self._splits[overrides] = data.splits
        return self._splits[overrides]

    @contextlib.contextmanager
    def ours(
        self, images: Sequence[str], *overrides: str
    ) -> Iterator[tuple[Trainer, LightningModule, ImageDataModule]]:
        with tempfile.TemporaryDirectory() as run_dir, terminal():
            device = "gpu" if self.device.type == "cuda" else self.device.type
            cfg = compose(*images, f"device={device}", f"run_dir={run_dir}", *overrides)
            config = build.resolve(cfg)
            trainer, task, data = build.trainer(config), build.task(config), build.data(config)
            tune(task, config, on_cpu=self.device.type == "cpu")
            data.splits = dict(self.splits(images))
            try:
                yield trainer, task, data
            finally:  # restore the process-wide settings for the peers
                torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
                os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

    def train(self, batch: int, *overrides: str) -> float:
        clock = StepClock(self.device, self.steps[batch])
        half = [0.5] * self._channels
        settings = [f"data.batch_size={batch}", f"data.mean={half}", f"data.std={half}", *TUTORIAL, *overrides]
        limits = [f"trainer.{name}={value}" for name, value in clock.limits.items()]
        with self.ours(self.pictures, *settings, *limits) as (trainer, task, data):
            trainer.callbacks.append(peers.Steps(clock))
            trainer.fit(task, data)
        return clock.seconds

    def tutorial(self, batch: int) -> float:
        clock = StepClock(self.device, self.steps[batch])
        trainset = peers.Pictures(*whole(self.splits(self.pictures)["train"]))
        peers.tutorial(peers.Net(self._channels), trainset, batch, clock.ends[1], clock, self.device)
        return clock.seconds

    def straightforward(self, batch: int) -> float:
        clock = StepClock(self.device, self.steps[batch])
        splits = self.splits(self.pictures)
        trainset, valset = (peers.Pictures(*whole(splits[name])) for name in ("train", "val"))
        with terminal():
            peers.straightforward(
                peers.Net(self._channels),
                trainset,
                valset,
                batch,
                peers.Steps(clock),
                self.device,
                peers.SGD,
                **clock.limits,
            )
        return clock.seconds

    def floor(self, batch: int) -> float:
        clock = StepClock(self.device, self.steps[batch])
        images, labels = whole(self.splits(self.pictures)["train"])
        peers.floor(Net(self._channels), images, labels, batch, clock.ends[1], clock, self.device)
        return clock.seconds

    def augment(self, *augmentations: Augmentation) -> float:
        """Return the seconds to augment ten batches of 128 images of 32x32, after a warm-up batch."""
        clock = Clock(self.device)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8, generator=generator).to(self.device)
        for batch in range(11):
            if batch == 1:
                clock.record()
            augmented = images
            for one in augmentations:
                augmented = one.apply(augmented, one.draw(128, 0, batch).to(self.device))
        clock.record()
        return clock.seconds

    def evaluate(self) -> float:
        clock = Clock(self.device)
        with self.ours(self.pictures) as (trainer, task, data):
            trainer.callbacks.append(EpochClock(clock))
            for _ in range(2):
                trainer.test(task, data, verbose=False)
        return clock.seconds

    def evaluate_floor(self) -> float:
        clock = Clock(self.device)
        images, labels = (tensor.to(self.device) for tensor in whole(self.splits(self.pictures)["test"]))
        net = Net(self._channels).to(self.device)
        for _ in range(2):
            clock.record()
            peers.evaluation_floor(net, images, labels, batch_size=500)
        clock.record()
        return clock.seconds

    def epoch(self) -> float:
        clock = Clock(self.device)
        settings = ["data.batch_size=128", "optimizer=adam", "schedule=constant", "trainer.max_epochs=2"]
        with self.ours(self.digits, *DENSE_NET, *settings) as (trainer, task, data):
            trainer.callbacks.append(EpochClock(clock))
            trainer.fit(task, data)
        return clock.seconds

    def epoch_straightforward(self) -> float:
        clock = Clock(self.device)
        splits = self.splits(self.digits)
        trainset, valset = (peers.Pictures(*whole(splits[name]), mean=0.1307, std=0.3081) for name in ("train", "val"))
        with terminal():
            peers.straightforward(
                peers.DenseNet(),
                trainset,
                valset,
                128,
                EpochClock(clock),
                self.device,
                torch.optim.Adam,
                max_epochs=2,
            )
        return clock.seconds

    def epoch_floor(self) -> float:
        images, labels = whole(self.splits(self.digits)["train"])
        steps = -(-len(labels) // 128)
        clock = StepClock(self.device, steps)
        clock.ends = (steps, 2 * steps)
        net = peers.DenseNet()
        peers.floor(net, images, labels, 128, clock.ends[1], clock, self.device, optimizer=torch.optim.Adam)
        return clock.seconds

    def read_folder(self, cached: bool) -> float:
        """Read a folder of images into memory, with or without the cache of an earlier run."""
        data = build.data(build.resolve(compose("data=image_folder", f"data.root={self._folder()}")))
        if cached:
            data.read("test")
        else:
            for file in Path(data.root, ".blitz").glob("*"):
                file.unlink()
        start = time.perf_counter()
        data.setup("test")
        return time.perf_counter() - start

    def memory(self) -> float:
        with tempfile.TemporaryDirectory() as directory:
            settings = ("trainer.max_epochs=1", "trainer.limit_train_batches=50", f"hydra.run.dir={directory}/run")
            return self.peak(*BLITZ, *self.pictures, *settings)

    def memory_floor(self) -> float:
        data = build.data(build.resolve(compose(*self.pictures)))
        data.setup("fit")
        data.setup("test")
        images = {id(split.images): split.images for split in data.splits.values()}.values()  # splits may share images
        bytes_ = sum(tensor.numel() for tensor in images if isinstance(tensor, torch.Tensor))
        return self.peak(sys.executable, "-c", "import torch, lightning") + 1.3 * bytes_ / 2**20

    def peak(self, *command: str) -> float:
        """Return the peak of a command's resident memory, in MiB."""
        return float(subprocess.run([sys.executable, "-c", PEAK, *command], check=True, stdout=subprocess.PIPE).stdout)

    def _folder(self) -> Path:
        """Return a directory with the test images as JPEG files. It is removed with this object."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory()
            images, labels = whole(self.splits(self.pictures)["test"])
            for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                for split in ("train", "test"):
                    directory = Path(self._files.name, split, str(label))
                    directory.mkdir(parents=True, exist_ok=True)
                    if split == "test" or not any(directory.iterdir()):
                        to_pil_image(image).save(directory / f"{index}.jpg", quality=95)
        return Path(self._files.name)

    def command(self, *command: str, status: int = 0) -> float:
        """Run a command in which the callback ``first_step.FirstStep`` can end the process. Return the seconds."""
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "first_step.py").write_text(FIRST_STEP)
            path = os.pathsep.join(filter(None, (directory, os.environ.get("PYTHONPATH"))))
            environment = os.environ | {"PYTHONPATH": path}
            directories = [f"hydra.run.dir={directory}/run", f"hydra.sweep.dir={directory}/sweep"]
            named = [text for text in directories if not any(text.partition("=")[0] in other for other in command)]
            run_dir = [] if command[:2] == STRAIGHTFORWARD else named
            start = time.perf_counter()
            done = subprocess.run([*command, *run_dir], capture_output=True, text=True, env=environment)
            seconds = time.perf_counter() - start
        if done.returncode != status:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return seconds

    def sweep(self, *overrides: str) -> float:
        """Return the seconds of a sweep over short runs."""
        return self.command(*BLITZ, "-m", *SHORT, *overrides)

    def one_by_one(self, number: int) -> float:
        """Return the seconds of the jobs of ``sweep`` as separate commands."""
        return sum(self.command(*BLITZ, *SHORT, f"seed={seed}") for seed in range(number))

    def finished_sweep(self) -> float:
        """Return the seconds of a sweep whose 100 jobs are done. The first call runs them."""
        if self._finished is None:
            self._finished = tempfile.TemporaryDirectory()
        command = (
            *BLITZ,
            "-m",
            *SHORT,
            "trainer.limit_train_batches=1",
            "seed=range(100)",
            f"hydra.sweep.dir={self._finished.name}",
        )
        if not any(Path(self._finished.name).iterdir()):
            self.command(*command)
        return self.command(*command)

    @property
    def _channels(self) -> int:
        return self.splits(self.pictures)["train"].images.shape[1]


def whole(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images and labels of a split."""
    return split.take(torch.arange(len(split.labels)))


def compose(*overrides: str) -> DictConfig:
    """Return the config that ``blitz-train`` composes from these overrides."""
    register()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        # Without a command there is no Hydra output directory that run_dir could refer to.
        return hydra.compose("train", ["run_dir=.", *overrides, "seed=0"])


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Redirect the output to a terminal in memory, for progress bars to draw on."""
    screen = _Terminal()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen), warnings.catch_warnings():
        yield


def measure(row: Row, rounds: int) -> Measured:
    measured = Measured(row, [], [])
    threads = torch.get_num_threads()
    for _ in range(rounds):
        sides = ((row.ours, measured.ours), (row.peer, measured.peer))
        for (side, seconds), own in zip(sides, row.threads or (threads, threads), strict=True):
            torch.set_num_threads(own)
            seconds.append(side())
    torch.set_num_threads(threads)
    return measured


def spread(values: Sequence[float]) -> str:
    """Return the median and the range, with three digits."""
    parts = (statistics.median(values), min(values), max(values))
    middle, low, high = (f"{value:,.{max(0, 3 - len(str(int(value))))}f}" for value in parts)
    return f"{middle} ({low}–{high})"


HEADINGS = ("", "threads", "ours", "the other", "times as fast", "goal")


def as_table(measured: Sequence[Measured]) -> Table:
    first, *others = HEADINGS
    table = Table(first, *(Column(heading, justify="right") for heading in others), box=box.SIMPLE_HEAD)
    for row in measured:
        table.add_row(*row.cells())
    return table


def as_markdown(measured: Sequence[Measured]) -> str:
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *(row.cells() for row in measured)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(device: torch.device) -> str:
    """Describe the machine. A load above a few tenths before the start means that other programs run too."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu)
    gpu = [torch.cuda.get_device_name()] if device.type == "cuda" else []
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "lightning", "torchmetrics")]
    python = f"Python {platform.python_version()}"
    load = [f"load {os.getloadavg()[0]:.1f}"] if hasattr(os, "getloadavg") else []
    return ", ".join([*gpu, f"{cpu}, {os.cpu_count()} cores", *load, python, *versions, date.today().isoformat()])


def cifar10(root: Path) -> tuple[str, ...]:
    """Return overrides for the official archive, or for the same images as files if only those exist."""
    files = root / "cifar10-jpeg"
    if files.is_dir() and not (root / "cifar-10-batches-py").is_dir():
        return ("data=image_folder", f"data.root={files}")
    return ("data=cifar10", f"data.root={root}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, steps and images; only rows with a goal")
    parser.add_argument(
        "--rows", nargs="+", metavar="TEXT", help='rows with one of these in their name, such as "batch 4:"'
    )
    parser.add_argument(
        "--template",
        type=lambda path: Path(path).absolute(),
        metavar="DIRECTORY",
        help="also measure the start-up of this clone of ashleve/lightning-hydra-template; it needs a .venv",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="all cores; use fewer if other programs run too"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args(argv)
    silence_lightning()
    root = PROJECT / "data"
    benchmark = Benchmark(
        pictures=cifar10(root),
        digits=("data=mnist", f"data.root={root}", "data.image_size=28"),
        steps={4: 200, 128: 50, 512: 9} if arguments.quick else {4: 600, 128: 200, 512: 75},
        threads=arguments.threads,
        few=arguments.quick,
        compiled=not arguments.quick,
        template=arguments.template,
    )
    rows = benchmark.rows()
    if arguments.quick:
        rows = [row for row in rows if row.at_least or row.at_most]
    if arguments.rows:
        rows = [row for row in rows if any(text in row.name for text in arguments.rows)]
        if not rows:
            parser.error(f"--rows={' '.join(arguments.rows)}: no row has this in its name")
    console.print(machine(benchmark.device), soft_wrap=True, highlight=False)
    measured = []
    for row in rows:
        measured.append(measure(row, rounds=2 if arguments.quick else 5))
        console.print(f"{row.name}: {spread(measured[-1].ratios)}", style="dim", highlight=False)
    if arguments.markdown:
        print(as_markdown(measured))
    else:
        console.print(as_table(measured), highlight=False)


if __name__ == "__main__":
    main()
