"""Measure how time and memory grow: time with the number of images, and neither with the number of epochs.

``python scripts/growth.py`` draws docs/growth.png in about four minutes on two cores. It repeats the MNIST images in
data/ as often as needed and trains as ``blitz-train data=mnist`` does.
"""

import resource
import sys
import tempfile
import time

import hydra
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from lightning import Callback

from blitz.config.paths import CONFIGS, PROJECT
from blitz.config.schema import register
from blitz.data.loader import Split
from blitz.terminal import silence_lightning
from blitz.training import build
from blitz.training.tune import tune

SIZES = (10_000, 50_000, 500_000)
EPOCHS = 100
FIGURE = PROJECT / "docs" / "growth.png"


class Growth(Callback):
    """Record the seconds of each epoch, and the peak of resident memory after it, in MiB."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.memory: list[float] = []

    def on_train_epoch_start(self, *_) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, *_) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        unit = 2**20 if sys.platform == "darwin" else 2**10
        self.memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def train(images: int, epochs: int) -> Growth:
    register()
    with tempfile.TemporaryDirectory() as run_dir, hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = ["data=mnist", "data.val_fraction=0", "callback.checkpoint.monitor=null", "schedule=constant"]
        overrides += ["seed=0", f"trainer.max_epochs={epochs}", "~callback.progress", f"run_dir={run_dir}"]
        config = build.resolve(hydra.compose("train", overrides))
        task, data, trainer = build.task(config), build.data(config), build.trainer(config)
        tune(task, config, on_cpu=trainer.strategy.root_device.type == "cpu")
        data.prepare_data()
        data.setup("fit")
        train = data.splits["train"]
        repeats = -(-images // len(train.labels))
        repeated = train.images.repeat(repeats, 1, 1, 1), train.labels.repeat(repeats)
        data.splits["train"] = Split(*(tensor[:images] for tensor in repeated))
        trainer.callbacks.append(growth := Growth())
        trainer.fit(task, data)
    return growth


def main() -> None:
    silence_lightning()
    memory = train(2_000, EPOCHS).memory
    seconds = [min(train(size, 2).seconds) for size in SIZES]
    for size, taken in zip(SIZES, seconds, strict=True):
        print(f"{size:>9,} images: {taken:6.2f} s an epoch, {size / taken:,.0f} images/s")
    print(f"peak memory after epoch 1: {memory[0]:,.0f} MiB, after epoch {EPOCHS}: {memory[-1]:,.0f} MiB")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(SIZES, seconds, "o-", color="#ee4c2c")
    left.set(xlabel="images", ylabel="seconds an epoch", xlim=0, ylim=0, title="Time grows with the data")
    left.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k")
    right.plot(range(1, EPOCHS + 1), memory, color="#ee4c2c")
    right.set(xlabel="epoch", ylabel="peak memory, MiB", xlim=(1, EPOCHS), ylim=(0, 1.3 * max(memory)))
    right.set_title("Memory does not grow with the epochs")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(FIGURE, dpi=120)
    print(FIGURE)


if __name__ == "__main__":
    main()
