"""What ``build`` sets for the whole process."""

import sys

import pytest
import torch

from blitz import build


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
