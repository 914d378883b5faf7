"""The state of all random generators."""

import random

import numpy as np
import torch

from blitz.process import random_state


def draw():
    return random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), torch.rand(3).tolist()  # noqa: NPY002


def test_a_restored_state_draws_the_same_numbers(tmp_path):
    random.gauss(0, 1), np.random.normal()  # noqa: NPY002 - each keeps a second number for the next call
    torch.save(random_state.get(), tmp_path / "state")
    first = draw()
    assert draw() != first
    random_state.put(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first


def test_preserved():
    state = random_state.get()
    with random_state.preserved():
        first = draw()
    assert draw() == first
    random_state.put(state)
    assert draw() == first
