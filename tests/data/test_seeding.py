"""Random streams."""

import torch

from blitz.data.seeding import generator


def test_streams_are_independent():
    draws = [torch.rand(1000, generator=generator(*keys)) for keys in ((0, 1), (1, 0), (0, "1"), (0,))]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.15
