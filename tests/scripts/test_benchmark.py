"""The benchmark on a few small images; its peers train the same weights as the bare loop."""

import os
import sys
from dataclasses import replace
from functools import partial

import benchmark
import peers
import pytest
import torch
from benchmark import Benchmark

from blitz.data.loader import Split
from blitz.model.net import Net

DIGITS = ("data=digits", "device=cpu")
SMALL = ("data=digits", "device=cpu", "data.image_size=28")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench():
    return Benchmark(pictures=DIGITS, digits=SMALL, steps={4: 2, 128: 1, 512: 1}, threads=1, device=CPU)


def test_table_has_every_row_with_positive_ratios(bench, monkeypatch):
    monkeypatch.setattr(benchmark, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(Benchmark, "command", lambda self, *command, status=0: 1.0)  # takes seconds
    monkeypatch.setattr(Benchmark, "peak", lambda self, *command: 1.0)
    rows = bench.rows()
    measured = [benchmark.measure(row, rounds=1) for row in rows]
    assert all(ratio > 0 for done in measured for ratio in done.ratios)
    lines = benchmark.as_markdown(measured).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [row.name for row in rows]
    assert benchmark.as_table(measured).row_count == len(rows)
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_full_table_has_compiled_rows(bench):
    names = [row.name for row in bench.rows()]
    added = [row.name for row in replace(bench, compiled=True).rows() if row.name not in names]
    peers_compiled = ("tutorial loop", "bare loop")
    assert added == [f"training, batch {batch}, compiled: ours / {p}" for p in peers_compiled for batch in (4, 128)]


def test_start_up_against_another_template(bench, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(Benchmark, "command", lambda self, *command, status=0: commands.append(command) or 1.0)
    (row,) = (row for row in replace(bench, template=tmp_path).rows() if "lightning-hydra-template" in row.name)
    assert benchmark.measure(row, rounds=1).ratios == [1.0]
    assert [str(tmp_path) in command[0] for command in commands] == [False, True]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not report the memory of a process")
def test_peak_memory_is_that_of_the_command_alone(bench):
    held = torch.ones(1 << 26)  # 256 MiB in this process
    assert 90 < bench.peak(sys.executable, "-c", "bytearray(range(100)) * 2**20") < 200
    assert len(held)


@pytest.fixture(scope="module")
def images():
    """Return five batches of 8."""
    generator = torch.Generator().manual_seed(0)
    return Split(
        torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (40,), generator=generator),
    )


def seeded(make):
    torch.manual_seed(0)
    return make(3)


@pytest.fixture(scope="module")
def weights(images):
    """Return the weights of the bare loop after five steps."""
    net = seeded(Net)
    peers.floor(net, images.images, images.labels, 8, 5, lambda: None, CPU, shuffle=False)
    return net.state_dict()


def test_tutorial_trains_the_weights_of_the_bare_loop(images, weights):
    net = seeded(peers.Net)
    peers.tutorial(net, peers.Pictures(images.images, images.labels), 8, 5, lambda: None, CPU, shuffle=False)
    torch.testing.assert_close(net.state_dict(), weights, rtol=0, atol=1e-6)


def test_straightforward_lightning_trains_the_weights_of_the_bare_loop(images, weights):
    net = seeded(peers.Net)
    pictures = peers.Pictures(images.images, images.labels)
    sgd = partial(torch.optim.SGD, lr=0.001, momentum=0.9)
    timer = peers.Steps(lambda: None)
    peers.straightforward(net, pictures, pictures, 8, timer, CPU, sgd, shuffle=False, max_steps=5)
    torch.testing.assert_close(net.state_dict(), weights, rtol=0, atol=1e-6)


def test_template_trains_the_weights_of_the_bare_loop(bench, images):
    """With one batch of all images, so that their order does not matter."""
    floor = seeded(Net)
    peers.floor(floor, images.images, images.labels, 40, 5, lambda: None, CPU)
    half = [0.5, 0.5, 0.5]
    settings = ["data.channels=3", "data.batch_size=40", f"data.mean={half}", f"data.std={half}", *benchmark.TUTORIAL]
    with bench.ours(DIGITS, *settings, "trainer.max_epochs=5") as (trainer, task, data):
        task.net.load_state_dict(seeded(Net).state_dict())
        data.splits = {"train": images, "val": images}
        trainer.fit(task, data)
    torch.testing.assert_close(task.net.state_dict(), floor.state_dict(), rtol=0, atol=1e-6)
