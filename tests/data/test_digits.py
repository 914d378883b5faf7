"""The handwritten digits that come with blitz."""

import torch

from blitz.data.digits import Digits
from tests.data.test_datamodule import grey, images, ready


def test_digits():
    data = ready(grey(Digits))
    sizes = {name: len(split.labels) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 1797
    everything = torch.cat([images(split) for split in data.splits.values()])
    assert everything.shape == (1797, 1, 32, 32)
    assert len(everything.unique(dim=0)) == 1797, "no image is in two splits"
