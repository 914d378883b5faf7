"""What ``build`` sets for the whole process."""

import os
import sys

import pytest
import torch
from omegaconf import OmegaConf

from blitz.model.net import Net
from blitz.training import build


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    import resource

    def step():
        return len([torch.ones(1 << 20) for _ in range(10)])  # 40 MiB: 10,240 pages

    build._keep_memory()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10_000


@pytest.mark.parametrize(
    ("batch_size", "asked", "onednn", "channels_last"),
    [(4, None, False, False), (4, False, True, False), (4, True, True, True), (8, None, True, True)],
)
def test_tiny_batches_go_without_onednn(batch_size, asked, onednn, channels_last):
    net = Net(3)
    build.tune(net, config(batch_size=batch_size, channels_last=asked))
    assert torch.backends.mkldnn.enabled == onednn
    assert net.conv2.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_no_step_asks_the_driver_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    there_is = torch.cuda.is_available()
    build.tune(Net(3), config())
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == str(int(there_is))
    assert torch.cuda.is_available() == there_is


def config(batch_size=4, channels_last=None):
    return OmegaConf.create(
        {
            "data": {"channels": 3, "image_size": 32, "num_classes": 10, "batch_size": batch_size},
            "model": {"_target_": "blitz.model.net.Net"},
            "trainer": {"accelerator": "cpu"},
            "threads": 1,
            "channels_last": channels_last,
            "compile": False,
        }
    )
