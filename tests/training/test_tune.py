"""Tuning: the settings by the work in a batch, and that they change nothing else."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from blitz.model.net import Net
from blitz.task.classify import Classify
from blitz.training import tune as tuning
from blitz.training.tune import tune

CLASSES = [str(index) for index in range(10)]
TRANSFORM = SimpleNamespace(channels=3, image_size=32)


@pytest.fixture(autouse=True)
def process_settings():
    """Restore the settings of the whole process."""
    threads, nvml = torch.get_num_threads(), os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")
    yield
    torch.set_num_threads(threads)
    torch.backends.mkldnn.enabled = True
    if nvml is None:
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    else:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = nvml


def task(net=None, transform=TRANSFORM):
    return Classify(net or Net(3), classes=CLASSES, transform=transform)


def config(batch_size=4, **settings):
    return {"data": {"batch_size": batch_size}, "threads": None, "channels_last": None, "compile": False, **settings}


def is_channels_last(task):
    return task.net.conv2.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    import resource

    def step():
        return len([torch.ones(1 << 20) for _ in range(10)])  # 40 MiB: 10,240 pages

    tune(task(), config(), on_cpu=True)
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10_000


@pytest.mark.parametrize(
    ("batch_size", "setting", "onednn", "channels_last"),
    [(4, None, False, False), (4, False, True, False), (4, True, True, True), (8, None, True, True)],
)
def test_tiny_batches_do_not_use_onednn(batch_size, setting, onednn, channels_last):
    classifier = task()
    tune(classifier, config(batch_size, channels_last=setting), on_cpu=True)
    assert torch.backends.mkldnn.enabled == onednn
    assert is_channels_last(classifier) == channels_last


def test_memory_format_stays_on_an_accelerator_unless_it_is_set():
    unset, chosen = task(), task()
    tune(unset, config(128), on_cpu=False)
    tune(chosen, config(128, channels_last=True), on_cpu=False)
    assert not is_channels_last(unset)
    assert is_channels_last(chosen)


@pytest.mark.parametrize(("batch_size", "threads"), [(4, 1), (24, 2), (128, 4), (512, 4)])
def test_threads_follow_the_work_in_a_batch(batch_size, threads, monkeypatch):
    """The tutorial's Net has 1.3 MFLOP per image; the machine has four cores."""
    monkeypatch.setattr(tuning, "CORES", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tune(task(), config(batch_size), on_cpu=True)
    assert torch.get_num_threads() == threads


def test_threads_of_the_config_are_used(monkeypatch):
    monkeypatch.setattr(tuning, "CORES", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tune(task(), config(4, threads=3), on_cpu=True)
    assert torch.get_num_threads() == 3


def test_unknown_work_keeps_the_defaults(monkeypatch):
    monkeypatch.setattr(tuning, "CORES", 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unknown = task(transform=None)
    tune(unknown, config(4), on_cpu=True)
    assert torch.get_num_threads() == 4
    assert torch.backends.mkldnn.enabled
    assert not is_channels_last(unknown)


def test_counting_the_work_changes_no_state():
    """Frozen parts stay in evaluation mode, and neither random numbers nor running statistics move."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(3600, 10))
    net[1].eval()
    classifier = task(net)
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    generator = torch.get_rng_state()
    tune(classifier, config(), on_cpu=True)
    assert [module.training for module in net] == [True, False, True, True, True]
    torch.testing.assert_close(dict(classifier.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)


def test_optimizers_do_not_look_for_a_driver_if_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    has_gpu = torch.cuda.is_available()
    tune(task(), config(), on_cpu=True)
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == str(int(has_gpu))
    assert torch.cuda.is_available() == has_gpu


def test_compilation_keeps_the_names_of_the_parameters(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    classifier = task()
    names = list(classifier.state_dict())
    tune(classifier, config(compile=True), on_cpu=True)
    assert compiled == [classifier.net]
    assert list(classifier.state_dict()) == names
